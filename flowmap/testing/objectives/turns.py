"""What an objective trains, and when."""

from __future__ import annotations

from flowmap.testing.check import Laws
from flowmap.testing.contract import require
from flowmap.testing.objectives.subject import ObjectiveSubject

LAWS = Laws("objective")

_STEPS = 100_000  # within which every turn is taken at least once


@LAWS.proven(
    "It takes the batch that it is examined with, and building it draws no random number.",
    "ObjectiveConfig.findings, ObjectiveConfig.build",
)
def takes_its_batch(subject: ObjectiveSubject) -> None:
    """Findings have no error."""
    assert subject.objective


@LAWS.proven(
    "There is a role `student`, the network that a stage exists for, and it is trained.", "ObjectiveConfig.roles"
)
def trains_a_student(subject: ObjectiveSubject) -> None:
    """By its name."""
    roles, who = subject.config.roles(), subject.who
    require("student" in roles, f"{who} must have a role 'student', the network that a stage exists for")
    require(roles["student"].trained, f"{who} must train its student")


@LAWS.proven(
    "Every turn trains a role that is trained, and every trained role has a turn.",
    "Objective.turns",
    after=("takes_its_batch", "trains_a_student"),
)
def turns_train_what_is_trained(subject: ObjectiveSubject) -> None:
    """Both ways."""
    trained = {name for name, spec in subject.config.roles().items() if spec.trained}
    taken = {turn.role for turn in subject.objective.turns()}
    require(taken <= trained, f"{subject.who} takes turns of {sorted(taken - trained)}, which it does not train")
    require(trained <= taken, f"{subject.who} says it trains {sorted(trained - taken)}, but takes no turn of them")


@LAWS.proven("Every turn is taken at some step.", "Turn.taken", after=("turns_train_what_is_trained",))
def turns_come_round(subject: ObjectiveSubject) -> None:
    """Within many."""
    for turn in subject.objective.turns():
        idle = not any(map(turn.taken, range(_STEPS)))
        require(not idle, f"{subject.who} takes no turn of its '{turn.role}' in {_STEPS:,} steps")
