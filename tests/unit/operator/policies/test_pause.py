"""What was hit once goes on at once; what fails again waits longer each time."""

from __future__ import annotations

import pytest
from builders import NOW, make_facts, make_spec, status_in

from finetune_operator.api.types import Failure, PastFailure, StageName
from finetune_operator.policies.facts import Verdict
from finetune_operator.policies.restart import restart_or_end

T = StageName.TRAIN
PAUSES = {"maxRestarts": 99, "backoffSeconds": {"initial": 10, "max": 60}}


def after(
    past: list[int | None], name: str, step: int | None = 7, code: int | None = None
) -> Verdict:
    """What follows from a failure after others at these steps."""
    ends = tuple(
        PastFailure(failure_class="Evicted", stage=T, attempt=attempt, step=at)
        for attempt, at in enumerate(past)
    )
    spec = make_spec(recovery=PAUSES)
    known = make_facts(status_in(T, attempt=len(past), past_failures=ends), spec=spec)
    failure = Failure(
        failure_class=name, stage=T, attempt=len(past), step=step, exit_code=code, message="why"
    )
    return restart_or_end(known, failure)


def pause(verdict: Verdict) -> float:
    seconds: float = (verdict.changes["next_attempt_time"] - NOW).total_seconds()
    return seconds


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("Evicted", None, 0),
        ("NodeLost", None, 0),
        ("PodLost", None, 0),
        ("JobVanished", None, 0),
        ("Hang", 76, 0),
        ("CollectiveTimeout", 74, 0),
        ("UnknownFailure", 137, 0),
        ("UnknownFailure", 1, 10),
        ("UnknownFailure", 139, 10),
        ("HostOom", 137, 10),
        ("Internal", 70, 10),
        ("Internal", 137, 10),
    ],
)
def test_the_first_restart_waits_only_after_a_failure_of_the_program(
    name: str, code: int | None, expected: int
) -> None:
    assert pause(after([], name, code=code)) == expected


def test_a_crash_loop_waits_from_its_second_loss_on_and_longer_each_time() -> None:
    assert [pause(after([7] * n, "Evicted")) for n in range(6)] == [0, 10, 20, 40, 60, 60]
    assert [pause(after([None] * n, "Rendezvous", None)) for n in range(3)] == [0, 10, 20]


def test_training_that_got_further_between_two_losses_goes_on_at_once() -> None:
    assert pause(after([7, 7, 7], "Evicted", step=8)) == 0
    assert pause(after([9, 8], "Evicted", step=9)) == 20, "further than the last one, not than ever"


def test_a_loss_after_failures_of_the_program_at_the_same_place_is_no_first_one() -> None:
    assert pause(after([7], "NodeLost")) == 10


def test_the_announcement_promises_no_pause_that_is_none() -> None:
    verdict = after([], "Evicted")
    assert verdict.message.startswith("trying again at once (restart 1 of 20 after failures around")
    assert verdict.final, "without a pause it is still decided on what the API server says"
