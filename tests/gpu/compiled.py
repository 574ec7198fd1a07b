"""tests.benchmarks.wan_step with compiled blocks, where this tree has them."""

from __future__ import annotations

import sys

from tests.benchmarks import wan_step

_FLAG = "--compile"


def main() -> None:
    """Measure, or say that there is nothing to measure."""
    if _FLAG not in wan_step.parser().format_help():
        print("  compiled blocks  not in this tree")
        return
    sys.argv.append(_FLAG)
    wan_step.main()


if __name__ == "__main__":
    main()
