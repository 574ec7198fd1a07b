"""tests.benchmarks.wan_step with compiled blocks, where this tree has them."""

from __future__ import annotations

import inspect
import sys
from functools import partial

from tests.benchmarks import wan_step
from tests.benchmarks.wan import Ours

_FLAG, _ARGUMENT = "--compile", "compiled"


def there() -> bool:
    """Whether this tree compiles: by an option of the benchmark, or an argument of what it makes."""
    return _FLAG in wan_step.parser().format_help() or _ARGUMENT in inspect.signature(Ours).parameters


def main() -> None:
    """Measure, or say that there is nothing to measure."""
    if not there():
        print("  compiled blocks  not in this tree")
        return
    if _FLAG in wan_step.parser().format_help():
        sys.argv.append(_FLAG)
    else:
        wan_step.Ours = partial(Ours, **{_ARGUMENT: True})  # type: ignore[misc, assignment]
    wan_step.main()


if __name__ == "__main__":
    main()
