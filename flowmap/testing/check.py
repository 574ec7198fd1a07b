"""Named checks: each proves one law of one kind of component."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, final

from flowmap.plugin.catalogue import KINDS

EVERY_KIND = "configuration"
"""The kind of the laws that hold for the configurations of all kinds."""

Body = TypeVar("Body", bound=Callable[[Any], None])


@final
@dataclass(frozen=True)
class Check:
    """One law, and how it is proven.

    `law` is a sentence, `stated` the interface that promises it, `equation` the paper's, where there is one. `needs`
    are the capabilities (see Capabilities) without which the law says nothing; `after` the checks that must have
    passed, because what they find would show here too. `body` raises AssertionError with a sentence.
    """

    name: str
    kind: str
    law: str
    stated: str
    equation: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    body: Callable[[Any], None]

    @property
    def anchor(self) -> str:
        """Where `docs/laws.md` has it."""
        return f"{self.kind}-{self.name}".replace("_", "-")

    @property
    def tier(self) -> str:
        """`basic`, which all components of the kind must pass, or the capabilities that it needs."""
        return " and ".join(self.needs) or "basic"


@final
class Laws:
    """Checks of a kind, in order."""

    def __init__(self, kind: str) -> None:
        assert kind in {*KINDS, EVERY_KIND}
        self._kind = kind
        self._checks: dict[str, Check] = {}

    def __iter__(self) -> Iterator[Check]:
        """The checks, in the order in which they were made."""
        return iter(self._checks.values())

    def proven(
        self, law: str, stated: str, *, equation: str = "", needs: tuple[str, ...] = (), after: tuple[str, ...] = ()
    ) -> Callable[[Body], Body]:
        """Make the function that follows the check of `law`; its name is the check's."""

        def made(body: Body) -> Body:
            name = body.__name__
            assert name not in self._checks, name
            assert law.endswith("."), name
            self._checks[name] = Check(name, self._kind, law, stated, equation, needs, after, body)
            return body

        return made


def gathered(*parts: Laws) -> tuple[Check, ...]:
    """The checks of all parts, each after those that it comes after."""
    checks = tuple(check for laws in parts for check in laws)
    before: set[str] = set()
    for check in checks:
        assert check.name not in before, check.name
        assert before.issuperset(check.after), check.name
        before.add(check.name)
    return checks
