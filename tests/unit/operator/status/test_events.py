"""Events: one for each change of the reason, and none for anything else."""

from __future__ import annotations

import re

from builders import KEY, NOW, UID, ended_pod, make_facts, make_spec, seconds
from unit.operator.status.cases import (
    CUDA_OOM,
    DEADLINE,
    FAILED,
    FAILING,
    GANG,
    ready_gang,
    train,
)

from finetune_operator.api.types import FineTuneJobStatus, Reason
from finetune_operator.policies.facts import Obstacle
from finetune_operator.status import decide


def test_an_event_tells_of_a_change_of_the_reason_and_of_nothing_else() -> None:
    fresh = decide(make_facts())
    assert fresh.event is not None
    assert (fresh.event["reason"], fresh.event["type"]) == ("Accepted", "Normal")
    assert fresh.event["involvedObject"]["uid"] == UID
    stored = FineTuneJobStatus.model_validate(fresh.status)
    assert decide(make_facts(stored, generation=2)).event is None


def test_a_restart_is_one_warning_event_and_its_draining_is_none() -> None:
    pods = (ended_pod(1, code=71, words=CUDA_OOM),)
    going = decide(make_facts(ready_gang(), jobs=train(**FAILING), pods=pods))
    assert going.event is None
    drained = FineTuneJobStatus.model_validate(going.status)
    event = decide(make_facts(drained, jobs=train(**FAILED), pods=pods)).event
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", "Restarting")
    assert event["message"].startswith("trying again in 5 s (with less memory in use: microBatch")


def test_a_failure_is_a_warning_event() -> None:
    event = decide(make_facts(spec={})).event
    assert event is not None and event["type"] == "Warning"


def test_a_job_that_ends_by_its_deadline_is_one_warning_and_its_draining_is_none() -> None:
    going = decide(make_facts(ready_gang(), jobs=train(), pods=GANG, spec=DEADLINE))
    assert going.event is None
    drained = FineTuneJobStatus.model_validate(going.status)
    event = decide(make_facts(drained, spec=DEADLINE)).event
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", "DeadlineExceeded")


def test_the_end_is_told_although_the_job_waited_for_the_same_reason() -> None:
    source, spec = "spec.model.uri: FineTuneJob base", make_spec()
    waits = Obstacle(Reason.SOURCE_NOT_READY, f"{source} has not succeeded yet: waiting for it")
    waiting = FineTuneJobStatus.model_validate(decide(make_facts(spec=spec, obstacle=waits)).status)
    failed = Obstacle(Reason.SOURCE_NOT_READY, f"{source} has failed", final=True)
    event = decide(make_facts(waiting, spec=spec, obstacle=failed)).event
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", "SourceNotReady")


def test_the_same_transition_makes_an_event_of_the_same_name() -> None:
    names = {decide(make_facts(now=NOW + seconds(n))).event["metadata"]["name"] for n in (0, 99)}  # type: ignore[index]
    assert len(names) == 1
    assert re.fullmatch(rf"{KEY.name}\.[0-9a-f]{{16}}", names.pop())
