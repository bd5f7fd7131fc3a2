"""Any facts get a verdict, and no verdict breaks the rules of the house."""

from __future__ import annotations

from typing import Any

from builders import (
    NOW,
    UID,
    make_facts,
    seconds,
)
from hypothesis import given, settings
from property.strategies import ENDED, FACTS, JOBS, LOSING, PODS

from finetune_operator.api.types import (
    FineTuneJobStatus,
    Phase,
    Restarts,
    StageName,
)
from finetune_operator.observed import ChildJob, ChildPod
from finetune_operator.policies.facts import Facts, Verb
from finetune_operator.status import decide, judge


def the_api_takes_the_decision(facts: Facts) -> None:
    decision = decide(facts)
    status = FineTuneJobStatus.model_validate(decision.status)
    assert status.wire() == decision.status
    assert len({c.type for c in status.conditions}) == len(status.conditions)
    reconciling, stalled = (
        next(c.status for c in status.conditions if c.type == name)
        for name in ("Reconciling", "Stalled")
    )
    assert (reconciling, stalled) != ("True", "True")
    assert decision.again_after is None or decision.again_after >= 0


def the_end_is_absorbing(facts: Facts) -> None:
    if facts.status.completion_time is None:
        return
    decided = FineTuneJobStatus.model_validate(decide(facts).status)
    assert decided.completion_time == facts.status.completion_time
    assert (decided.phase is Phase.SUCCEEDED) == (facts.status.phase is Phase.SUCCEEDED)
    assert all(action.verb is Verb.DELETE for action in decide(facts).actions)


def a_restart_spends_one_of_one_budget_once_and_within_its_bounds(facts: Facts) -> None:
    decision = decide(facts)
    before, after = facts.status, FineTuneJobStatus.model_validate(decision.status)
    old, new = before.restarts or Restarts(), after.restarts or Restarts()
    program = (new.program or 0) - (old.program or 0)
    infrastructure = (new.infrastructure or 0) - (old.infrastructure or 0)
    assert (program, infrastructure) in ((0, 0), (1, 0), (0, 1))
    assert (new.steps_redone or 0) >= (old.steps_redone or 0)
    if not program + infrastructure:
        return
    assert before.next_attempt_time is None, "it was paid already"
    assert after.next_attempt_time is not None and after.phase is Phase.RESTARTING
    recovery = facts.spec.recovery
    assert not program or (new.program or 0) <= recovery.max_restarts
    assert not infrastructure or (new.infrastructure or 0) <= recovery.max_infrastructure_restarts
    assert after.past_failures
    newest = after.past_failures[-1]
    assert (newest.stage, newest.attempt) == (facts.stage.name, facts.stage.attempt)
    assert newest.budget == ("Program" if program else "Infrastructure")
    assert newest.failure_class == (after.failure and after.failure.failure_class) != "BadData"
    assert decision.irrevocable and not decision.actions
    job = facts.stage.job
    assert job is None or job.failure is not None or any(map(out_of_reach, facts.observed.pods))


def every_second_is_accounted_for_once(facts: Facts) -> None:
    decided = FineTuneJobStatus.model_validate(decide(facts).status)
    if facts.status.completion_time or decided.wire() == facts.status.wire():
        return
    account, start = decided.goodput, decided.start_time
    assert (account is None) == (start is None)
    if account is None or start is None:
        return
    assert account.seconds.total == (account.until - start).total_seconds()
    assert account.until >= start and (account.current is None) == bool(decided.completion_time)
    part = account.attempt.by_cause() if account.attempt else {}
    assert all(count <= account.seconds.by_cause()[cause] for cause, count in part.items())


def out_of_reach(pod: ChildPod) -> bool:
    """A minute of silence of its node, or a minute after it had to be gone."""
    since = (pod.silent, pod.due)
    return any(moment is not None and moment <= NOW - seconds(60) for moment in since)


def assert_only_lost_pods_are_left(facts: Facts) -> None:
    """And the status names all of them: it is stored before anything is done."""
    told = FineTuneJobStatus.model_validate(decide(facts).status).lost_nodes or ()
    named = {(node.name, pod) for node in told for pod in node.pods or ()}
    left = [p for p in facts.observed.pods if p.owner_uid == UID and not p.finished]
    assert all(map(out_of_reach, left))
    assert {(pod.node, pod.name) for pod in left} == named


def nothing_ends_while_a_pod_is_left(facts: Facts) -> None:
    verdict = judge(facts)
    if verdict.state.terminal and facts.status.completion_time is None:
        assert not facts.live_jobs
        assert_only_lost_pods_are_left(facts)


def nothing_is_created_beside_living_pods_or_under_a_name_that_is_not_stored(
    facts: Facts,
) -> None:
    for action in judge(facts).actions:
        if action.verb is not Verb.CREATE:
            continue
        assert not facts.live_jobs
        assert_only_lost_pods_are_left(facts)
        stored: dict[str, Any] = facts.status.wire()
        numbers = [("prepareAttempt", "p"), ("attempt", "a"), ("exportAttempt", "x")]
        names = {f"demo-{letter}{stored[name]}" for name, letter in numbers if name in stored}
        assert action.name in names


@given(JOBS, PODS)
@settings(max_examples=100)
def test_no_leftover_of_any_kind_lets_a_second_gang_begin(
    jobs: tuple[ChildJob, ...], pods: tuple[ChildPod, ...]
) -> None:
    """Attempt 1 is written ahead and everything is in place but for what earlier gangs left."""
    written_ahead = FineTuneJobStatus(prepare_attempt=0, prepared=NOW, attempt=1, start_time=NOW)
    others = tuple(job for job in jobs if job.name != "demo-a1")
    facts = make_facts(written_ahead, jobs=others, pods=pods)
    creates = any(action.verb is Verb.CREATE for action in judge(facts).actions)
    if creates:
        assert not facts.live_jobs
        assert_only_lost_pods_are_left(facts)


def only_own_jobs_are_deleted_and_only_by_uid(facts: Facts) -> None:
    own = {job.uid for job in facts.own_jobs}
    for action in judge(facts).actions:
        if action.verb is Verb.DELETE and action.kind == "Job":
            assert action.uid in own


def a_change_of_size_is_allowed_and_comes_between_attempts(facts: Facts) -> None:
    decided = FineTuneJobStatus.model_validate(decide(facts).status)
    old, new = (s.resolved.resizes or () if s.resolved else () for s in (facts.status, decided))
    if facts.plan is None or new == old:
        return
    newest = new[-1]
    assert new[:-1] == old[-9:]
    assert newest.workers in facts.plan.sizes and newest.workers != newest.workers_before
    assert newest.workers_before == facts.plan.pods(StageName.TRAIN)
    assert decided.next_attempt_time is not None


RULES = (
    the_api_takes_the_decision,
    the_end_is_absorbing,
    a_restart_spends_one_of_one_budget_once_and_within_its_bounds,
    every_second_is_accounted_for_once,
    nothing_ends_while_a_pod_is_left,
    nothing_is_created_beside_living_pods_or_under_a_name_that_is_not_stored,
    only_own_jobs_are_deleted_and_only_by_uid,
    a_change_of_size_is_allowed_and_comes_between_attempts,
)


@given(FACTS | ENDED | LOSING)
@settings(max_examples=800)
def test_no_verdict_breaks_a_rule(facts: Facts) -> None:
    """One test for all rules: making up facts takes longer than judging them."""
    for rule in RULES:
        rule(facts)


@given(LOSING)
@settings(max_examples=400)
def test_nothing_ends_or_begins_beside_a_pod_that_is_not_given_up_yet(facts: Facts) -> None:
    """By itself, because few facts come near the end of patience."""
    nothing_ends_while_a_pod_is_left(facts)
    nothing_is_created_beside_living_pods_or_under_a_name_that_is_not_stored(facts)
