"""Facts as they may come: sound ones, odd ones, gangs that ended and gangs on lost nodes."""

from __future__ import annotations

from builders import (
    NOW,
    UID,
    make_child_job,
    make_facts,
    make_pod,
    make_spec,
    seconds,
)
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
from finetune_operator.observed import Termination
from finetune_operator.policies.facts import NamespaceBudget, Obstacle
from finetune_operator.reports import read_progress

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
