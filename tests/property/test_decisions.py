"""Any facts get a verdict, and no verdict breaks the rules of the house."""

from __future__ import annotations

from typing import Any

from builders import (
    NOW,
    UID,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.types import (
    Cause,
    Condition,
    Failure,
    FineTuneJobStatus,
    Goodput,
    PastFailure,
    Phase,
    Resize,
    Resolved,
    Restarts,
    ResumedFrom,
    StageName,
    TimeSpent,
)
from finetune_operator.observed import ChildJob, ChildPod, Termination
from finetune_operator.policies.facts import Facts, NamespaceBudget, Obstacle, Verb
from finetune_operator.reports import read_progress
from finetune_operator.status import decide, judge

STAGES = st.sampled_from(list(StageName))
MOMENTS = st.integers(-4000, 100).map(lambda n: NOW + seconds(n))
MAYBE_MOMENT = st.none() | MOMENTS
NUMBERS = st.none() | st.integers(0, 3)
TEXTS = st.text(max_size=4) | st.sampled_from(
    ["two\nlines", "\x00\x1b[31m", "ünï ☃ 𝄞", '{"stage": "train"}', "word " * 400]
)
"""Drawing a long text costs more than deciding about it."""
REASONS = st.tuples(st.sampled_from(["BackoffLimitExceeded", "PodFailurePolicy", ""]), TEXTS)

CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Reconciling", "GangReady", "Succeeded"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
            "reason": st.sampled_from(["Training", "Suspending", "StartTimeout", "Accepted"]),
            "message": TEXTS,
            "last_transition_time": MOMENTS,
        }
    ).map(lambda fields: Condition(**fields)),
    unique_by=lambda condition: condition.type,
    max_size=3,
).map(tuple)

CLASSES = st.sampled_from(["CudaOom", "BadData", "Evicted", "UnknownFailure", "JobVanished"])
STEPS = st.none() | st.integers(0, 3)
PAST_FAILURES = st.lists(
    st.builds(
        PastFailure,
        failure_class=CLASSES,
        stage=STAGES,
        attempt=st.integers(0, 2),
        step=STEPS,
        budget=st.sampled_from(["Program", "Infrastructure"]),
        steps_redone=STEPS,
    ),
    max_size=10,
).map(tuple)
RESTARTS = st.builds(Restarts, program=NUMBERS, infrastructure=NUMBERS, steps_redone=NUMBERS)

SPENT = st.builds(
    TimeSpent, queue=st.integers(0, 99), init=st.integers(0, 99), productive=st.integers(0, 99)
)
ACCOUNTS = st.builds(
    Goodput,
    until=MOMENTS,
    current=st.none() | st.sampled_from(list(Cause)),
    seconds=SPENT,
    attempt=st.none() | SPENT,
    gpu_seconds=st.integers(0, 7200),
)
RESOLVED = st.builds(
    Resolved,
    global_batch_size=st.sampled_from([None, 16, 5]),
    resizes=st.none()
    | st.lists(
        st.builds(Resize, workers=NUMBERS, workers_before=NUMBERS, wanted=NUMBERS, at=MAYBE_MOMENT),
        max_size=3,
    ).map(tuple),
)
STATUSES = st.builds(
    dict,
    observed_generation=st.integers(-1, 2),
    phase=st.none() | st.sampled_from(list(Phase)),
    conditions=CONDITIONS,
    prepare_attempt=NUMBERS,
    attempt=NUMBERS,
    export_attempt=NUMBERS,
    prepare_job_uid=st.sampled_from([None, "x"]),
    job_uid=st.sampled_from([None, "x"]),
    prepared=MAYBE_MOMENT,
    trained=MAYBE_MOMENT,
    exported=MAYBE_MOMENT,
    start_timeouts=NUMBERS,
    next_attempt_time=MAYBE_MOMENT,
    restarts=st.none() | RESTARTS,
    past_failures=st.none() | PAST_FAILURES,
    resumed_from=st.none() | st.builds(ResumedFrom, attempt=NUMBERS, step=st.integers(0, 3)),
    failure=st.none() | st.builds(Failure, failure_class=CLASSES, stage=STAGES, step=STEPS),
    start_time=MAYBE_MOMENT,
    completion_time=st.none() | st.none() | MAYBE_MOMENT,
    suspend_time=MAYBE_MOMENT,
    suspended_seconds=st.none() | st.integers(0, 5000),
    goodput=st.none() | ACCOUNTS,
    resolved=st.none() | RESOLVED,
).map(lambda fields: FineTuneJobStatus(**fields))
JOBS = st.lists(
    st.builds(
        make_child_job,
        STAGES,
        st.integers(0, 3),
        owner_uid=st.sampled_from([UID, UID, "other", ""]),
        created=MOMENTS,
        deleting=st.booleans(),
        suspended=st.booleans(),
        complete=st.booleans(),
        failure=st.none() | REASONS,
        failing=st.none() | REASONS,
    ),
    unique_by=lambda job: job.name,
    max_size=4,
).map(tuple)
TERMINATIONS = st.builds(
    Termination,
    exit_code=st.sampled_from([0, 1, 65, 71, 74, 75, 137, 143]),
    reason=st.sampled_from(["", "OOMKilled", "Error"]),
    message=TEXTS | st.just('{"stage": "train", "attempt": 0, "outcome": "failed"}'),
    finished=MAYBE_MOMENT,
)
PODS = st.lists(
    st.builds(
        make_pod,
        st.integers(0, 2),
        STAGES,
        st.integers(0, 3),
        owner_uid=st.sampled_from([UID, UID, "other", ""]),
        phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
        ready=st.booleans(),
        silent=MAYBE_MOMENT,
        due=MAYBE_MOMENT,
        created=MOMENTS,
        unscheduled=st.none() | st.tuples(TEXTS, TEXTS, MOMENTS),
        waiting=st.none()
        | st.tuples(st.sampled_from(["ErrImagePull", "ContainerCreating", "x"]), TEXTS),
        terminated=st.none() | TERMINATIONS,
        disruption=st.sampled_from(["", "EvictionByEvictionAPI"]),
    ),
    unique_by=lambda pod: pod.uid,
    max_size=4,
).map(tuple)
SPECS = st.sampled_from(
    [
        make_spec(),
        make_spec(suspend=True),
        make_spec(activeDeadlineSeconds=100, workers={"terminationGracePeriodSeconds": 30}),
        make_spec(workers={"ranksPerWorker": None, "gpusPerWorker": 2}, budget={"gpuHours": "1"}),
        make_spec(ttlSecondsAfterFinished=0),
        make_spec(recovery={"elastic": {"min": 1, "max": 4, "growAfterSeconds": 10}}),
        {},
        {"model": 7, "suspend": "yes", "activeDeadlineSeconds": "x"},
    ]
)
BUDGETS = st.builds(
    lambda program, infrastructure: make_spec(
        recovery={"maxRestarts": program, "maxInfrastructureRestarts": infrastructure}
    ),
    st.integers(0, 3),
    st.integers(0, 3),
)
OBSTACLES = st.none() | st.builds(
    Obstacle,
    st.sampled_from(["ClaimNotFound", "Forbidden"]),
    TEXTS,
    final=st.booleans(),
    stalled=st.booleans(),
)
REPORTS = st.sampled_from(
    [
        None,
        read_progress(b'{"attempt": 1, "step": 2, "updatedAt": 1, "resumedFrom": {"step": 0}}'),
        read_progress(
            b'{"attempt": 1, "step": 3, "updatedAt": 1, "account": {"at": 1795430000, '
            b'"doing": "train", "seconds": {"train": 900.5, "evaluate": 3.25}}}'
        ),
        read_progress(b'{"attempt": 2, "updatedAt": 1, "resumedFrom": {"attempt": 0, "step": 1}}'),
    ]
)
FACTS = st.builds(
    make_facts,
    STATUSES,
    jobs=JOBS,
    pods=PODS,
    evidence=PODS,
    warning=st.none() | st.tuples(TEXTS, TEXTS),
    spec=SPECS,
    obstacle=OBSTACLES,
    refusal=OBSTACLES,
    progress=REPORTS,
    namespace_budget=st.none()
    | st.builds(NamespaceBudget, st.sampled_from([None, 0.0, 1.0]), st.integers(0, 4000)),
)


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


def _with_a_gang_that_ended(status: FineTuneJobStatus) -> FineTuneJobStatus:
    ended = {"prepared": NOW, "trained": None, "attempt": 1, "completion_time": None}
    return status.model_copy(update=ended)


ENDED = st.builds(
    make_facts,
    STATUSES.map(_with_a_gang_that_ended),
    jobs=st.builds(make_child_job, st.just(StageName.TRAIN), st.just(1), failure=REASONS).map(
        lambda job: (job,)
    ),
    pods=PODS,
    evidence=PODS,
    spec=BUDGETS,
    progress=REPORTS,
)
"""Facts of which most ask for a verdict on a failure."""


ABOUT_A_MINUTE_AGO = st.none() | st.sampled_from([59, 60, 61]).map(lambda n: NOW - seconds(n))
TRAINING = st.builds(
    FineTuneJobStatus,
    prepared=st.just(NOW),
    attempt=st.just(1),
    start_time=st.just(NOW),
    restarts=st.none() | RESTARTS,
)
LOSING = st.builds(
    make_facts,
    TRAINING | STATUSES.map(_with_a_gang_that_ended),
    jobs=st.builds(
        make_child_job,
        st.just(StageName.TRAIN),
        st.just(1),
        deleting=st.booleans(),
        failing=st.none() | REASONS,
    ).map(lambda job: (job,)),
    pods=st.tuples(
        *(
            st.builds(
                make_pod,
                st.just(index),
                st.just(StageName.TRAIN),
                st.sampled_from([0, 1]),
                silent=ABOUT_A_MINUTE_AGO,
                due=ABOUT_A_MINUTE_AGO,
            )
            for index in (0, 1)
        )
    ),
    spec=BUDGETS | SPECS,
    progress=REPORTS,
)
"""Gangs with pods on nodes that may be lost."""


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
@settings(max_examples=100, deadline=None)
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
@settings(max_examples=800, deadline=None)
def test_no_verdict_breaks_a_rule(facts: Facts) -> None:
    """One test for all rules: making up facts takes longer than judging them."""
    for rule in RULES:
        rule(facts)


@given(LOSING)
@settings(max_examples=400, deadline=None)
def test_nothing_ends_or_begins_beside_a_pod_that_is_not_given_up_yet(facts: Facts) -> None:
    """By itself, because few facts come near the end of patience."""
    nothing_ends_while_a_pod_is_left(facts)
    nothing_is_created_beside_living_pods_or_under_a_name_that_is_not_stored(facts)
