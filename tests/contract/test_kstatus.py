"""What kstatus (Flux, ``helm --wait``) and ``kubectl wait`` make of our conditions."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.conditions import ConditionType
from finetune_operator.policies.facts import State


def kstatus(job: dict[str, Any]) -> str:
    """The order of sigs.k8s.io/cli-utils/pkg/kstatus for a custom resource."""
    meta, status = job["metadata"], job.get("status", {})
    if "deletionTimestamp" in meta:
        return "Terminating"
    if status.get("observedGeneration", meta["generation"]) != meta["generation"]:
        return "InProgress"
    for condition in status.get("conditions", []):
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


def job(state: State | None, *, observed: int = 1, **meta: Any) -> dict[str, Any]:
    """A job of generation 1 with the four conditions of a state, in the order of publication."""
    values = state.value[:4] if state else ()
    names = ("Reconciling", "Stalled", "Succeeded", "Failed")
    return {
        "metadata": {"generation": 1, **meta},
        "status": {
            "observedGeneration": observed,
            "conditions": [
                {"type": name, "status": value}
                for name, value in zip(names, values, strict=bool(values))
            ],
        },
    }


@pytest.mark.parametrize(
    "state, verdict",
    [
        pytest.param(State.MOVING, "InProgress", id="preparing, starting, restarting, exporting"),
        pytest.param(State.RUNNING, "Current", id="training"),
        pytest.param(State.SUSPENDED, "Current", id="suspended"),
        pytest.param(State.STUCK, "Failed", id="waits for a person"),
        pytest.param(State.SUCCEEDED, "Current", id="succeeded"),
        pytest.param(State.FAILED, "Failed", id="failed for good"),
    ],
)
def test_kstatus_sees_the_state_as_it_is(state: State, verdict: str) -> None:
    assert kstatus(job(state)) == verdict


def test_every_state_has_a_row_above() -> None:
    assert {state.name for state in State} == {
        "MOVING", "RUNNING", "SUSPENDED", "STUCK", "SUCCEEDED", "FAILED",
    }  # fmt: skip


def test_a_job_that_the_operator_has_not_seen_is_in_progress() -> None:
    assert kstatus({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}) == (
        "InProgress"
    )


def test_an_edit_that_the_operator_has_not_seen_is_in_progress() -> None:
    assert kstatus(job(State.SUCCEEDED, observed=0)) == "InProgress"


def test_a_job_that_is_being_deleted_is_terminating() -> None:
    assert kstatus(job(State.RUNNING, deletionTimestamp="now")) == "Terminating"


@pytest.mark.parametrize("state", State)
def test_no_state_reconciles_and_stalls(state: State) -> None:
    reconciling, stalled = state.value[:2]

    assert (reconciling, stalled) != ("True", "True")


@pytest.mark.parametrize("state", State)
def test_scripts_can_wait_for_either_outcome(state: State) -> None:
    """``kubectl wait`` watches one condition, so each outcome has one of its own."""
    _, _, succeeded, failed = state.value[:4]

    assert (succeeded == "True") == (state is State.SUCCEEDED)
    assert (failed == "True") == (state is State.FAILED)
    assert state.terminal == ("True" in (succeeded, failed))


def test_there_is_no_ready_condition() -> None:
    """kstatus would take Ready=False of a failed job for progress, for ever."""
    assert "Ready" not in set(ConditionType)


def test_reconciling_stands_before_stalled() -> None:
    """kstatus takes whichever it meets first."""
    assert list(ConditionType)[:2] == [ConditionType.RECONCILING, ConditionType.STALLED]
