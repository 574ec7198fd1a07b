"""tests.benchmarks.wan_step with compiled blocks."""

from __future__ import annotations

import sys

from tests.benchmarks import wan_step


def main() -> None:
    """Measure."""
    sys.argv.append("--compile")
    wan_step.main()


if __name__ == "__main__":
    main()
