"""Why pods do not run yet, in one sentence: what, how many, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..api.cluster_signatures import CLUSTER_SIGNATURES
from ..api.signatures.signature import find
from ..api.types import Phase, Reason, StageName
from ..observed import ChildJob, ChildPod
from .facts import Facts
from .queue import POLL_SECONDS, has_words, sentence_of_queue

PATIENCE_SECONDS = 5.0
"""Pods that start normally pass through these states too: say nothing before."""
GATED = "SchedulingGated"
"""Reason of PodScheduled where a gate holds a pod back."""
SILENT_SECONDS = 15.0
"""After this time without pods or containers, Warning events are asked."""

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "ErrImageVolumeMount",
    }
)
CONFIG_REASONS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_NOISE = re.compile(
    r"^(Back-off pulling image \"[^\"]*\": )?(ErrImagePull: )?(rpc error: code = \w+ desc = )?"
)
_ASIDES = re.compile(r"( (no new claims to deallocate|preemption:).*|\. not found)$", re.DOTALL)
"""What the scheduler also tried, and an end that says nothing more; what counts stands before."""
_CLAIM = "persistentvolumeclaim"


@dataclass(frozen=True)
class Waiting:
    """A cause of waiting."""

    reason: Reason
    sentence: str
    phase: Phase | None = None


def explain(facts: Facts) -> tuple[Waiting | None, float | None]:
    """The cause, if it is one to speak of, and after how many seconds to look again."""
    job = facts.stage.job
    if job is None or job.finished:
        return None, None
    if job.suspended:
        again = POLL_SECONDS if has_words(facts) else PATIENCE_SECONDS
        early = PATIENCE_SECONDS - facts.seconds_since(job.created)
        if early > 0 and not has_words(facts):
            return None, early
        return Waiting(Reason.QUEUED, sentence_of_queue(facts, job), Phase.QUEUED), again
    pods = sorted((p for p in facts.stage.pods if not p.finished), key=lambda pod: pod.index)
    if missing := _not_created(facts, job, pods):
        return missing, None
    found = _unscheduled(pods, facts) or _image(pods, facts) or _config(pods)
    found = found or _unread(facts, job) or _mount(facts, pods)
    if found is None:
        return None, SILENT_SECONDS if warning_about(facts, soon=True) else None
    oldest = min((pod.created for pod in pods), default=job.created)
    patience = PATIENCE_SECONDS - facts.seconds_since(oldest)
    return (found, None) if patience <= 0 else (None, patience)


def advised(sentence: str) -> str:
    """The sentence, and what to do where Kubernetes' words in it are known."""
    known = find(CLUSTER_SIGNATURES, [sentence])
    return f"{sentence}; {known.hint}" if known else sentence


def warning_about(facts: Facts, *, soon: bool = False) -> str | None:
    """UID of the Job or pod that does not come up and does not say why; its events may.

    ``soon``: also where it is too early to ask.
    """
    job = facts.stage.job
    if job is None or job.finished or job.suspended or job.deleting:
        return None
    patience = 0.0 if soon else SILENT_SECONDS
    if len(facts.stage.pods) < job.parallelism:
        return job.uid if facts.seconds_since(job.created) >= patience else None
    for pod in facts.stage.pods:
        creating = pod.waiting is not None and pod.waiting[0] == "ContainerCreating"
        if creating and facts.seconds_since(pod.created) >= patience:
            return pod.uid
    return None


def claims_waited_for(facts: Facts) -> tuple[str, ...]:
    """Claims of which the scheduler says that one has no volume."""
    pods = (pod for pod in facts.stage.pods if pod.unscheduled and not pod.node)
    waits = any(_CLAIM in pod.unscheduled[1].lower() for pod in pods if pod.unscheduled)
    return _mounted(facts) if waits else ()


def _unread(facts: Facts, job: ChildJob) -> Waiting | None:
    """The operator may not list Events."""
    warning = facts.observed.warning
    if warning is None or warning[0] != Reason.FORBIDDEN:
        return None
    up = sum(pod.ready or pod.finished for pod in facts.stage.pods)
    count = f"{job.parallelism - up} of {job.parallelism} pods are not up yet"
    return Waiting(Reason.FORBIDDEN, f"{count}, and their Events may say why: {warning[1]}")


def _not_created(facts: Facts, job: ChildJob, pods: list[ChildPod]) -> Waiting | None:
    warning = facts.observed.warning
    if warning is None or len(facts.stage.pods) >= job.parallelism:
        return None
    reason, message = warning
    if reason == Reason.FORBIDDEN:
        return _unread(facts, job)
    count = f"{job.parallelism - len(pods)} of {job.parallelism} pods cannot be created"
    if "exceeded quota" in message:
        return Waiting(
            Reason.QUOTA_EXCEEDED,
            f"{count}: {message}; free quota in namespace {facts.key.namespace}, or ask for less",
        )
    return Waiting(Reason.WAITING_FOR_PODS, advised(f"{count}: {message}"))


def _unscheduled(pods: list[ChildPod], facts: Facts) -> Waiting | None:
    unplaced = [pod for pod in pods if pod.unscheduled and not pod.node]
    waiting = [pod for pod in unplaced if pod.unscheduled and pod.unscheduled[0] != GATED]
    if not waiting:
        return _gated(unplaced, len(pods))
    _, message, _ = waiting[0].unscheduled or ("", "", None)
    count = f"{len(waiting)} of {len(pods)} pods cannot be scheduled"
    text = _ASIDES.sub("", message).rstrip(". ")
    if _CLAIM in message.lower():
        return Waiting(Reason.VOLUME_PENDING, f"{count}: {text}; look at {_claims(facts, message)}")
    return Waiting(Reason.UNSCHEDULABLE, advised(f"{count}: {text}"))


def _gated(gated: list[ChildPod], of: int) -> Waiting | None:
    """The scheduler was told not to look at them yet: fewer pods would not help."""
    if not gated:
        return None
    return Waiting(
        Reason.WAITING_FOR_PODS,
        f"{len(gated)} of {of} pods are held back by scheduling gates, which whoever set them "
        f"takes away: see spec.schedulingGates of pod {gated[0].name}",
    )


def _claims(facts: Facts, message: str) -> str:
    """The one that the scheduler names, or those without a volume, or all."""
    mounted = _mounted(facts)
    named = [name for name in mounted if f'"{name}"' in message]
    told = named or facts.observed.unbound or mounted
    return f"PersistentVolumeClaim{'s' if told[1:] else ''} {', '.join(told)}"


def _mounted(facts: Facts) -> tuple[str, ...]:
    """The claims that the stage's pods mount."""
    plan = facts.known_plan
    names = [plan.claim_name]
    if facts.stage.name is StageName.PREPARE:
        names += [source.claim for source in plan.sources if source.claim]
    if facts.stage.name is StageName.EXPORT and plan.output_claim:
        names.append(plan.output_claim)
    return tuple(dict.fromkeys(names))


def _image(pods: list[ChildPod], facts: Facts) -> Waiting | None:
    stuck = [pod for pod in pods if pod.waiting and pod.waiting[0] in IMAGE_REASONS]
    if not stuck:
        return None
    _, message = stuck[0].waiting or ("", "")
    images = [source.image for source in facts.known_plan.sources if source.image]
    named = next((image for image in images if image and image in message), stuck[0].image)
    cause = _NOISE.sub("", message).rstrip(". ") or "no reason given"
    return Waiting(
        Reason.IMAGE_PULL,
        advised(f"{len(stuck)} of {len(pods)} pods cannot pull image {named}: {cause}"),
    )


def _config(pods: list[ChildPod]) -> Waiting | None:
    stuck = [pod for pod in pods if pod.waiting and pod.waiting[0] in CONFIG_REASONS]
    if not stuck:
        return None
    reason, message = stuck[0].waiting or ("", "")
    return Waiting(
        Reason.CONTAINER_CONFIG,
        advised(
            f"{len(stuck)} of {len(pods)} pods cannot start their container ({reason}): {message}"
        ),
    )


def _mount(facts: Facts, pods: list[ChildPod]) -> Waiting | None:
    warning = facts.observed.warning
    creating = [pod for pod in pods if pod.waiting and pod.waiting[0] == "ContainerCreating"]
    if warning is None or not creating:
        return None
    reason, message = warning
    volume = "ount" in reason or "olume" in reason
    return Waiting(
        Reason.VOLUME_PENDING if volume else Reason.CONTAINER_CONFIG,
        advised(f"{len(creating)} of {len(pods)} pods cannot start ({reason}): {message}"),
    )
