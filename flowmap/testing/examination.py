"""A component under examination: which checks apply to it, and what became of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from flowmap.plugin.blame import said_of
from flowmap.plugin.kinds import ComponentConfig
from flowmap.schema.words import unknown_word
from flowmap.testing.capabilities import Capabilities
from flowmap.testing.check import Check
from flowmap.testing.contract import is_sentence

Status = Literal["passed", "failed", "expected", "not applicable", "not run"]


class Subject(ABC):
    """A component and what it is examined with; whatever is made of it is made when it is first needed, and once."""

    kind: ClassVar[str]
    config: ComponentConfig

    def __init__(self, config: ComponentConfig, capabilities: Capabilities = Capabilities()) -> None:  # noqa: B008
        self.config, self._capabilities = config, capabilities
        self.who = f"'{config.type}'"
        self._found: dict[str, bool] = {}

    def can(self, name: str) -> bool:
        """Whether it has the capability `name`, as it says or else as is found out."""
        told = self._capabilities.told(name)
        if told is not None:
            return told
        if name not in self._found:
            self._found[name] = self.found(name)
        return self._found[name]

    @abstractmethod
    def found(self, name: str) -> bool:
        """Find out whether it has the capability `name`."""


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a check; `sentence` says why, unless it passed; `error` is what the component raised, if any."""

    check: Check
    status: Status
    sentence: str = ""
    error: BaseException | None = None


@final
class Case:
    """One check of one component, to be called by a test: raises AssertionError with what is broken."""

    def __init__(self, examination: Examination, check: Check) -> None:
        self._examination = examination
        self.check, self.name, self.law = check, check.name, check.law

    def __repr__(self) -> str:
        return f"{self._examination.subject.config.type}-{self.name}"

    def outcome(self) -> Outcome:
        """What becomes of it; the same when it is asked again."""
        return self._examination.outcome(self.name)

    def __call__(self) -> None:
        """Raise AssertionError, with a sentence, if the check failed."""
        found = self.outcome()
        if found.status == "failed":
            raise AssertionError(found.sentence) from found.error


@final
class Examination:
    """All checks of one component.

    `expected` are the names of those that are known to fail, each with the reason; one of them that passes is a
    failure. Raises ValueError for a name that no check has.
    """

    def __init__(self, subject: Subject, checks: Iterable[Check], expected: Mapping[str, str]) -> None:
        self.subject = subject
        self._checks = {check.name: check for check in checks}
        for name in expected:
            if name not in self._checks:
                raise ValueError(unknown_word(f"check of a {subject.kind}", name, sorted(self._checks)))
        self._expected = expected
        self._outcomes: dict[str, Outcome] = {}

    def cases(self) -> list[Case]:
        """One for each check, in order."""
        return [Case(self, check) for check in self._checks.values()]

    def outcome(self, name: str) -> Outcome:
        """What becomes of the check `name`, and before it of those that it comes after."""
        if name not in self._outcomes:
            self._outcomes[name] = self._judged(self._checks[name])
        return self._outcomes[name]

    def outcomes(self) -> list[Outcome]:
        """What becomes of all checks, in order."""
        return [self.outcome(name) for name in self._checks]

    def _judged(self, check: Check) -> Outcome:
        found = self._found(check)
        reason = self._expected.get(check.name)
        if reason is None or found.status in ("not applicable", "not run"):
            return found
        if found.status == "failed":
            return Outcome(check, "expected", f"{reason} ({found.sentence})")
        sentence = f"{self.subject.who} keeps the law '{check.name}', which was expected to fail ({reason})"
        return Outcome(check, "failed", f"{sentence}; take that expectation out")

    def _found(self, check: Check) -> Outcome:
        for earlier in check.after:
            if self.outcome(earlier).status in ("failed", "expected", "not run"):
                return Outcome(check, "not run", f"'{earlier}' failed, which would show here too")
        try:
            for capability in check.needs:
                if not self.subject.can(capability):
                    return Outcome(check, "not applicable", f"{self.subject.who} has no '{capability}'")
            check.body(self.subject)
        except Exception as error:
            # A stranger's code may raise anything.
            if isinstance(error, AssertionError) and is_sentence(error):
                return Outcome(check, "failed", _one_line(str(error)), error.__cause__)
            sentence = (
                f"{self.subject.who} cannot be asked whether it keeps the law '{check.name}' "
                f"({check.law.rstrip('.')}): {said_of(error, self.subject.config)}"
            )
            return Outcome(check, "failed", _one_line(sentence), error)
        return Outcome(check, "passed")


def _one_line(text: str) -> str:
    return " ".join(text.split())
