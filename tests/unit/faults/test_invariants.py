"""The invariants of the fault matrix can fail: each meets a history that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.invariants import RULES, Place, violations
from faults.matrix import counts
from unit.faults.logs import END, NODES, OPERATOR, UID, Log, whole_life

ONCE = {"restarts": {"total": 1, "stepsRedone": 2}}


def broken(log: Log, *listing: dict[str, Any], gives_up: bool = False) -> set[str]:
    """Names of the rules that find something."""
    found = violations(log.lives(), Place(OPERATOR, listing, gives_up))
    return {text.partition(":")[0] for text in found}


def begun() -> Log:
    """A job whose first gang trains."""
    log = Log()
    log.finetune_job()
    log.status(prepareAttempt=0)
    log.attempt("demo-p0", "prepare", 0, "Complete")
    log.status(prepareAttempt=0, attempt=0)
    log.job("demo-a0", "train", 0)
    log.pod("demo-a0-0", "demo-a0")
    return log


def test_a_life_as_it_should_be_breaks_no_rule_and_is_counted() -> None:
    log = whole_life()
    assert not broken(log)
    assert counts(log.lives()) == {"jobs": 1, "gangs": 4, "restarts": 1, "steps_lost": 2}


def second_gang() -> Log:
    log = begun()
    log.status(prepareAttempt=0, attempt=1)
    log.job("demo-a1", "train", 1)
    log.pod("demo-a1-0", "demo-a1")
    return log


def second_gang_of_a_namesake() -> Log:
    log = begun()
    log.deleted()
    log.finetune_job(uid="second")
    log.status(uid="second", prepareAttempt=0)
    log.job("demo-p0", "prepare", 0, owner="second", uid="job-second")
    log.pod("demo-p0-9", "second", uid="second")
    return log


def attempt_skipped() -> Log:
    log = begun()
    log.status(prepareAttempt=0, attempt=2)
    return log


def attempt_taken_back() -> Log:
    log = begun()
    log.status(prepareAttempt=0)
    return log


def attempt_born_twice() -> Log:
    log = begun()
    log.pod_is("Failed", "demo-a0-0")
    log.job_deleted("demo-a0")
    log.job("demo-a0", "train", 0, uid="another")
    return log


def job_not_announced() -> Log:
    log = begun()
    log.pod_is("Failed", "demo-a0-0")
    log.job("demo-a1", "train", 1)
    return log


def announced_by_a_write_that_was_not_carried_out() -> Log:
    log = begun()
    log.pod_is("Failed", "demo-a0-0")
    log.status_unanswered(prepareAttempt=0, attempt=1, carried_out=False)
    log.job("demo-a1", "train", 1)
    log.status(prepareAttempt=0, attempt=1)
    return log


def test_a_write_whose_sender_died_counts_if_others_set_out_from_it() -> None:
    log = begun()
    log.pod_is("Failed", "demo-a0-0")
    log.status_unanswered(prepareAttempt=0, attempt=1, carried_out=True)
    log.job("demo-a1", "train", 1)
    log.status(prepareAttempt=0, attempt=1, phase="Starting")
    assert not broken(log)


def test_a_job_whose_creator_died_counts_if_others_write_to_it() -> None:
    log = begun()
    log.pod_is("Failed", "demo-a0-0")
    log.job_is("Failed", "demo-a0")
    log.status(prepareAttempt=0, attempt=1, **ONCE)
    log.job_unanswered("demo-a1", "train", 1)
    log.pod("demo-a1-0", "demo-a1")
    log.pod_is("Failed", "demo-a1-0")
    log.job_is("Failed", "demo-a1")
    log.status(prepareAttempt=0, attempt=1, phase="Failed", completionTime="now", **ONCE)
    assert not broken(log)
    (life,) = log.lives()
    assert [job.attempt for job in life.jobs.values() if job.failed] == [0, 1]


def status_after_the_end() -> Log:
    log = whole_life()
    log.status(**{**END, "phase": "Failed"}, **ONCE)
    return log


def child_after_the_end() -> Log:
    log = whole_life()
    log.job("demo-x0", "export", 0, uid="again")
    return log


def ended_over_a_living_pod() -> Log:
    log = begun()
    log.status(prepareAttempt=0, attempt=0, phase="Failed", completionTime="now")
    return log


def ended_while_a_pod_terminates() -> Log:
    log = begun()
    log.pod_let_go("demo-a0-0", grace=30)
    log.status(prepareAttempt=0, attempt=0, phase="Failed", completionTime="now")
    log.pod_let_go("demo-a0-0")
    return log


def restart_not_counted() -> Log:
    log = whole_life()
    for entry in log.entries:
        entry["responseObject"].get("status", {}).pop("restarts", None)
    return log


def restart_counted_twice() -> Log:
    log = begun()
    log.pod_is("Failed", "demo-a0-0")
    log.job_is("Failed", "demo-a0")
    log.status(prepareAttempt=0, attempt=0, restarts={"total": 2})
    return log


def deleted_by_a_stranger_and_not_counted() -> Log:
    log = begun()
    log.job_deleted("demo-a0", user="somebody")
    log.pod_let_go("demo-a0-0")
    log.status(prepareAttempt=0, attempt=1)
    log.attempt("demo-a1", "train", 1, "Complete")
    log.status(prepareAttempt=0, attempt=1, phase="Succeeded", completionTime="now")
    return log


def owner_of_another_life() -> Log:
    log = begun()
    log.pod_is("Succeeded", "demo-a0-0")
    log.status(prepareAttempt=0, attempt=1)
    log.job("demo-a1", "train", 1, owner="stranger", label=UID)
    return log


def pod_of_no_job() -> Log:
    log = begun()
    log.pod_is("Succeeded", "demo-a0-0")
    log.pod("demo-a0-7", "of-nobody")
    return log


@pytest.mark.parametrize(
    ("history", "rule"),
    [
        (second_gang, "one_gang_at_a_time"),
        (second_gang_of_a_namesake, "one_gang_at_a_time"),
        (attempt_skipped, "attempts_count_up_by_one"),
        (attempt_taken_back, "attempts_count_up_by_one"),
        (attempt_born_twice, "one_job_for_an_attempt"),
        (job_not_announced, "every_job_was_announced"),
        (announced_by_a_write_that_was_not_carried_out, "every_job_was_announced"),
        (status_after_the_end, "the_end_is_absorbing"),
        (child_after_the_end, "the_end_is_absorbing"),
        (ended_over_a_living_pod, "it_ends_when_its_pods_are_gone"),
        (ended_while_a_pod_terminates, "it_ends_when_its_pods_are_gone"),
        (restart_not_counted, "restarts_are_counted_exactly"),
        (restart_counted_twice, "restarts_are_counted_exactly"),
        (deleted_by_a_stranger_and_not_counted, "restarts_are_counted_exactly"),
        (owner_of_another_life, "children_have_the_right_owner"),
        (pod_of_no_job, "children_have_the_right_owner"),
    ],
)
def test_a_rule_notices_the_history_that_breaks_it(history: Callable[[], Log], rule: str) -> None:
    assert rule in broken(history())


def test_what_is_left_over_is_noticed() -> None:
    labels = {"finetune.dev/uid": UID, "finetune.dev/job": "demo"}
    job: dict[str, Any] = {"kind": "FineTuneJob", "metadata": {"name": "demo", "uid": UID}}
    pod: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {"name": "demo-a1-0", "uid": "p", "labels": labels},
        "status": {"phase": "Running"},
    }
    log = whole_life()
    assert broken(log, pod) == {"nothing_is_left_over"}, "it has no owner any more"
    assert not broken(log, job, pod)
    assert broken(log, {**job, "status": END}, pod) == {"nothing_is_left_over"}
    lost = on_a_lost_node()
    lost.status(**END, **ONCE)
    pod["metadata"] |= {"name": "demo-a0-0", "uid": "pod-demo-a0-0"}
    assert not broken(lost, {**job, "status": END}, pod, gives_up=True)


def on_a_lost_node() -> Log:
    """The second gang began beside a pod that nobody can reach."""
    log = begun()
    log.pod_silent("demo-a0-0")
    log.job_deleted("demo-a0")
    log.status(prepareAttempt=0, attempt=1, **ONCE)
    log.job("demo-a1", "train", 1)
    log.pod("demo-a1-0", "demo-a1")
    log.pod_is("Succeeded", "demo-a1-0")
    log.job_is("Complete", "demo-a1")
    log.status(prepareAttempt=0, attempt=1, exportAttempt=0, **ONCE)
    return log


def test_a_pod_on_a_lost_node_counts_for_nobody() -> None:
    log = on_a_lost_node()
    log.status(**END, **ONCE)
    assert broken(log) == {"restarts_are_counted_exactly"}, "nobody else called attempt 0 failed"
    assert not broken(log, gives_up=True)
    log.entries = [entry for entry in log.entries if entry["user"]["username"] != NODES]
    assert broken(log, gives_up=True) == {"one_gang_at_a_time", "it_ends_when_its_pods_are_gone"}


def test_only_what_the_operator_gave_up_may_count_without_a_failure() -> None:
    log = on_a_lost_node()
    log.status(**END, restarts={"total": 2, "stepsRedone": 2})
    assert "restarts_are_counted_exactly" in broken(log, gives_up=True)


@pytest.mark.parametrize(("restarts", "holds"), [(1, True), (2, True), (3, False), (0, False)])
def test_a_scorer_that_fails_need_not_be_started_again(restarts: int, holds: bool) -> None:
    log, told = whole_life(), {"restarts": {"total": 1, "stepsRedone": 2}}
    log.entries = log.entries[:-7]  # export, and the end
    log.status(prepareAttempt=0, attempt=1, scoreAttempt=0, **told)
    log.attempt("demo-s0", "score", 0, "Failed")
    told = {"restarts": {"total": restarts}}
    log.status(prepareAttempt=0, attempt=1, scoreAttempt=0, exportAttempt=0, **told)
    log.attempt("demo-x0", "export", 0, "Complete")
    log.status(**END, scoreAttempt=0, **told)
    assert broken(log) == (set() if holds else {"restarts_are_counted_exactly"})


def test_the_time_to_live_may_change_after_the_end() -> None:
    log = whole_life()
    log.status(**END, **ONCE, observedGeneration=2)
    log.status(**END, **ONCE, observedGeneration=2, childrenRemovedTime="later")
    assert not broken(log)


def test_an_unscheduled_pod_is_gone_when_it_is_deleted() -> None:
    log = begun()
    log.pod_let_go("demo-a0-0")
    log.status(prepareAttempt=0, attempt=1)
    log.job("demo-a1", "train", 1)
    log.pod("demo-a1-0", "demo-a1")
    assert not broken(log)


def test_requests_count_in_the_order_in_which_they_were_taken() -> None:
    """Answers may be logged in another order than the store took the writes."""
    log = whole_life()
    log.entries.reverse()
    entries = [e for e in log.entries if "resourceVersion" in e["responseObject"]["metadata"]]
    assert len(entries) == len(log.entries)
    assert not broken(log)


def test_every_rule_is_tried_here() -> None:
    tried = Path(__file__).read_text()
    assert all(f'"{rule.__name__}"' in tried for rule in RULES)
