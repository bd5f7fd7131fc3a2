"""The failure digest: which pod failed first, why, and whether another try can help."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ..api.cluster_signatures import CLUSTER_SIGNATURES
from ..api.failures import BY_EXIT_CODE, BY_NAME
from ..api.signatures.signature import find
from ..api.signatures.table import SIGNATURES
from ..api.types import Failure, Reason, StageName
from ..objects.prepare_job import AUGMENT
from ..observed import ChildPod, Termination
from ..reports import FailureReport, read_last_words
from .clocks import ended_at, in_order
from .facts import Facts
from .out_of_reach import lost_of_attempt
from .queue import held_by_queue
from .silence import clock, out_of_reach_since

CONSEQUENCES = frozenset({"CollectiveTimeout", "Preempted", "Rendezvous"})
"""How ranks end when another one has died before: never the cause while there is another."""
OOM_KILLED = "OOMKilled"
UNFORESEEN, HOST_MEMORY = "Internal", "HostMemory"
"""Class and signature of memory that was asked for and refused."""
LOST_SIGHT = frozenset({"ContainerStatusUnknown", "Unknown"})
"""What kubelet and containerd say of a container that is gone when they start: the node restarted
under it."""
SIGTERM_EXIT = 143
MAX_LINES = 20
MAX_LINE = 1024

SENTENCES = {
    Reason.HOST_OOM.value: "the container went over its memory limit",
    Reason.EPHEMERAL_STORAGE_EXCEEDED.value: "the pod used more local disk than its limit allows",
    Reason.EVICTED.value: "the pod was evicted, preempted or lost its node",
    Reason.POD_LOST.value: "a pod is gone and left no word",
    Reason.NODE_LOST.value: "the node restarted under the pod",
    Reason.JOB_VANISHED.value: "its Kubernetes Job was deleted by someone else",
    Reason.UNKNOWN_FAILURE.value: "the container died without a word",
}
HINTS = {
    (Reason.HOST_OOM.value, StageName.PREPARE): "raise spec.prepare.resources.limits.memory",
    (Reason.HOST_OOM.value, StageName.TRAIN): (
        "raise spec.workers.resources.limits.memory, or lower spec.training.microBatchSize"
    ),
    (Reason.HOST_OOM.value, StageName.EXPORT): "raise spec.export.resources.limits.memory",
}
SHARED_MEMORY = 'EmptyDir volume "shm"'
ROOMS = {
    StageName.PREPARE: "spec.prepare.resources",
    StageName.TRAIN: "spec.workers.resources",
    StageName.SCORE: "spec.evaluation.generation.scorers[].resources",
    StageName.EXPORT: "spec.export.resources",
}
"""Where the limits of a stage's pods stand."""


def classify(pod: ChildPod, report: FailureReport | None) -> str:
    """The class of a pod's end: the kubelet's word on memory, the trainer's own, the code's."""
    ended = pod.terminated
    if pod.overfull:
        return Reason.EPHEMERAL_STORAGE_EXCEEDED.value
    if ended and ended.reason == OOM_KILLED:
        return Reason.HOST_OOM.value
    if pod.disruption:
        return Reason.EVICTED.value
    if ended and report is None and ended.reason in LOST_SIGHT:
        return Reason.NODE_LOST.value
    if (said := _said(report)) in (Reason.HOST_OOM.value, *BY_NAME):
        return str(said)
    if ended and ended.exit_code in BY_EXIT_CODE:
        return BY_EXIT_CODE[ended.exit_code].name
    if ended and ended.exit_code == SIGTERM_EXIT:
        return Reason.EVICTED.value
    return Reason.UNKNOWN_FAILURE.value


def _said(report: FailureReport | None) -> str | None:
    """The trainer's class. HostOom has no exit code, because PID 1 lives on: the launcher says it
    of a rank that the kernel killed; a rank that the allocator refuses says HostMemory."""
    if report and (report.failure_class, report.signature) == (UNFORESEEN, HOST_MEMORY):
        return Reason.HOST_OOM.value
    return report.failure_class if report else None


def digest(facts: Facts) -> Failure:
    """What is known about the failure of the present attempt."""
    stage = facts.stage
    if held_by_queue(facts):
        return _taken_back(facts)
    culprit = find_culprit((*facts.observed.last_words, *stage.pods))
    lost = lost_of_attempt(facts)
    if lost and (culprit is None or _followed(culprit)):
        return _of_lost(lost[0], facts)
    if culprit is None:
        return _without_pod(facts)
    if culprit.overfull:
        return _of_overfull(culprit, facts)
    if (end := culprit.terminated) and culprit.stuck_in == AUGMENT and _its_own(culprit, end):
        return _of_augment(culprit, end, facts)
    report = _report(culprit)
    name = classify(culprit, report)
    ended = culprit.terminated
    lines = tuple(line[:MAX_LINE] for line in (report.lines if report else ()))[-MAX_LINES:]
    if not lines and ended and ended.message and report is None:
        lines = tuple(line[:MAX_LINE] for line in ended.message.splitlines()[-MAX_LINES:])
    message = report.message if report and report.message else SENTENCES.get(name)
    signature, cause, advice = _explanation(name, report, lines)
    return Failure(
        failure_class=name,
        signature=signature,
        stage=stage.name,
        attempt=stage.attempt,
        rank=_rank(culprit, report, facts),
        pod=culprit.name,
        node=culprit.node or None,
        exit_code=_exit_code(culprit, report),
        step=_step(report, facts),
        message=(message or BY_NAME[name].meaning)[:1024],
        cause=cause[:1024] or None,
        hint=(HINTS.get((name, stage.name)) or advice)[:1024] or None,
        lines=lines or None,
        at=ended_at(culprit, report),
    )


def _of_overfull(pod: ChildPod, facts: Facts) -> Failure:
    """Its kubelet killed it: what its containers say of their end is no cause."""
    name = Reason.EPHEMERAL_STORAGE_EXCEEDED.value
    report = _report(pod)
    return Failure(
        failure_class=name,
        stage=facts.stage.name,
        attempt=facts.stage.attempt,
        rank=_rank(pod, None, facts),
        pod=pod.name,
        node=pod.node or None,
        exit_code=_exit_code(pod, report),
        step=_step(report, facts),
        message=f"{SENTENCES[name]}: {pod.overfull}"[:1024],
        hint="raise spec.workers.sharedMemory"
        if SHARED_MEMORY in pod.overfull
        else f"raise limits.ephemeral-storage in {ROOMS[facts.stage.name]}; where that sets none, "
        "the namespace's LimitRange does",
        at=ended_at(pod, report),
    )


def _its_own(pod: ChildPod, end: Termination) -> bool:
    """It ended by itself, and neither for its node nor for somebody who asked."""
    return not pod.disruption and end.reason not in LOST_SIGHT and end.exit_code != SIGTERM_EXIT


def _of_augment(pod: ChildPod, end: Termination, facts: Facts) -> Failure:
    """The user's container: what it does to the same rows, it would do again."""
    lines = tuple(line[:MAX_LINE] for line in end.message.splitlines() if line.strip())
    out_of_memory = end.reason == "OOMKilled"
    said = f": {lines[-1]}" if lines and not out_of_memory else ""
    why = "went over its memory limit" if out_of_memory else f"ended with exit code {end.exit_code}"
    return Failure(
        failure_class="BadData",
        stage=facts.stage.name,
        attempt=facts.stage.attempt,
        pod=pod.name,
        node=pod.node or None,
        exit_code=end.exit_code,
        message=f"spec.data.augment: the container {why}{said}"[:1024],
        hint="raise spec.data.augment.resources.limits.memory"
        if out_of_memory
        else "correct the container, and create the job anew; it reads $ROWS_IN and writes "
        "$ROWS_OUT, as docs/data.md says",
        lines=lines[-MAX_LINES:] or None,
        at=end.finished,
    )


def _explanation(
    name: str, report: FailureReport | None, lines: tuple[str, ...]
) -> tuple[str | None, str, str]:
    """Signature, cause and hint: the trainer's, who saw the whole log, or from the lines here."""
    if report is not None:
        own = report.signature if _said(report) == name else None
        return own, (report.cause or "") if own else "", report.hint or ""
    # The runtime's own words of a container that it could not start, or plain text.
    known = find((*CLUSTER_SIGNATURES, *SIGNATURES), lines)
    return (known.name, known.cause, known.hint) if known else (None, "", "")


def digest_of_vanished(facts: Facts) -> Failure:
    """The attempt's Job is gone: pods that only followed it are no cause."""
    failure = digest(facts)
    followed = failure.failure_class in CONSEQUENCES | {Reason.EVICTED.value}
    return _without_pod(facts) if followed else failure


def _followed(pod: ChildPod) -> bool:
    """Ranks lose each other, and pods are evicted, when a node stops answering."""
    return classify(pod, _report(pod)) in CONSEQUENCES | {Reason.EVICTED.value}


def _of_lost(pod: ChildPod, facts: Facts) -> Failure:
    """A pod that was given up: what is known of it, and no more."""
    if pod.silent is not None:
        state = "trained on there until the last" if facts.trains else "may still run there"
        message = f"node {pod.node} has not answered since {clock(pod.silent)}; its pod {state}"
    else:
        message = (
            f"the pod had to be gone by {clock(out_of_reach_since(pod))} and is still there: node "
            f"{pod.node} does not answer, or cannot end its processes"
        )
    return Failure(
        failure_class=Reason.NODE_LOST.value,
        stage=facts.stage.name,
        attempt=facts.stage.attempt,
        rank=_rank(pod, None, facts),
        pod=pod.name,
        node=pod.node,
        step=_step(None, facts),
        message=message[:1024],
        hint=(
            f"look at node {pod.node}; if it is off for good, delete it or taint it with "
            "node.kubernetes.io/out-of-service, so that Kubernetes lets its pods and volumes go"
        ),
        at=out_of_reach_since(pod),
    )


def tell(failure: Failure) -> str:
    """The digest as one sentence."""
    where = [f"rank {failure.rank}"] if failure.rank is not None else []
    if failure.pod:
        where.append(f"pod {failure.pod}")
    if failure.node:
        where.append(f"node {failure.node}")
    if failure.exit_code is not None:
        where.append(f"exit code {failure.exit_code}")
    place = f" ({', '.join(where)})" if where else ""
    stage = failure.stage.value if failure.stage else "job"
    cause = f" - {failure.cause}" if failure.cause else ""
    return f"{stage} failed with {failure.failure_class}{place}: {failure.message}{cause}"[:2000]


def find_culprit(pods: Iterable[ChildPod]) -> ChildPod | None:
    """The pod that failed first; those that only followed count where there is no other."""
    failed = {pod.name: pod for pod in pods if _failed(pod)}
    reports = {name: _report(pod) for name, pod in failed.items()}
    times = in_order(failed, reports)

    def guilt(pod: ChildPod) -> tuple[bool, datetime, int]:
        return _only_followed(pod, reports[pod.name]), times[pod.name], pod.index

    return min(failed.values(), key=guilt, default=None)


def _failed(pod: ChildPod) -> bool:
    return bool(pod.disruption or pod.overfull) or (
        pod.terminated is not None and pod.terminated.exit_code != 0
    )


def _only_followed(pod: ChildPod, report: FailureReport | None) -> bool:
    return classify(pod, report) in CONSEQUENCES or (
        not pod.disruption
        and not pod.overfull
        and pod.terminated is not None
        and pod.terminated.exit_code == SIGTERM_EXIT
    )


def _report(pod: ChildPod) -> FailureReport | None:
    words = read_last_words(pod.terminated.message) if pod.terminated else None
    return words.failure if words else None


def _rank(pod: ChildPod, report: FailureReport | None, facts: Facts) -> int | None:
    if facts.stage.name is not StageName.TRAIN:
        return None
    if report and report.rank is not None:
        return report.rank
    return pod.index if facts.spec.workers.ranks_per_pod == 1 else None


def _step(report: FailureReport | None, facts: Facts) -> int | None:
    """The rank's own word, or the last step that rank 0 of this attempt was asked for."""
    if report is not None and report.step is not None:
        return report.step
    stage, told = facts.stage, facts.progress
    if stage.name is not StageName.TRAIN:
        return None
    if told is not None and told.attempt == stage.attempt and told.step is not None:
        return told.step
    known = facts.status.progress
    fresh = (
        known is not None
        and stage.job is not None
        and known.updated_at is not None
        and known.updated_at >= stage.job.created
    )
    return known.step if known is not None and fresh else None


def _exit_code(pod: ChildPod, report: FailureReport | None) -> int | None:
    if pod.terminated:
        return pod.terminated.exit_code
    return report.exit_code if report else None


def _taken_back(facts: Facts) -> Failure:
    """Whatever the pods of a suspended Job say, they were told to go."""
    said = facts.observed.admission
    if said is not None and said.evicted is not None:
        reason, words = said.evicted
        message = f"the queue took its quota back ({reason}): {words}"
    elif facts.spec.queue is not None:
        message = "the queue took its quota back"
    else:
        message = "its Kubernetes Job was suspended by someone else"
    return _moment_of_telling(
        facts,
        Failure(
            failure_class=Reason.EVICTED.value,
            stage=facts.stage.name,
            attempt=facts.stage.attempt,
            step=_step(None, facts),
            message=message[:1024],
        ),
    )


def _moment_of_telling(facts: Facts, failure: Failure) -> Failure:
    """Told before, with the time of then: else every pass would find it a little later."""
    known = facts.status.failure
    told = known is not None and known.model_copy(update={"at": None}) == failure
    return failure.model_copy(update={"at": known.at if known and told else facts.now})


def _without_pod(facts: Facts) -> Failure:
    """No pod is left to ask: the Kubernetes Job's own words."""
    job = facts.stage.job
    if job is None:
        name, message = Reason.JOB_VANISHED.value, SENTENCES[Reason.JOB_VANISHED.value]
    else:
        reason, message = job.failure or job.failing or ("", "")
        disrupted = reason == "PodFailurePolicy" and "DisruptionTarget" in message
        # A pod that failed by itself stays with its Job; one that is missing was taken away.
        name = (Reason.EVICTED if disrupted else Reason.POD_LOST).value
        message = f"{SENTENCES[name]}: {message}" if message else SENTENCES[name]
    return _moment_of_telling(
        facts,
        Failure(
            failure_class=name,
            stage=facts.stage.name,
            attempt=facts.stage.attempt,
            step=_step(None, facts),
            message=message[:1024],
        ),
    )
