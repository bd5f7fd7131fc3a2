"""Wishes that cannot work: wrong specs, missing claims, sources that are not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..api.types import Failure, Phase, Reason, StageName
from ..plan import TrainingPlan
from ..sources import JOB_SCHEME
from .ending import end_job
from .facts import WAITING_PHASES, Facts, Obstacle, State, Verdict

SHARED = "ReadWriteMany"
OBSTACLE_SECONDS = 15.0


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim, as far as it matters here."""

    access_modes: tuple[str, ...]
    bound: bool = True
    """It has a volume."""


@dataclass(frozen=True)
class Surroundings:
    """What was looked up about the things that a spec names; None: it does not exist."""

    claims: Mapping[str, Claim | None]
    template_keys: frozenset[str] | None = frozenset()
    """Keys of the chat template's ConfigMap."""
    source_phase: str | None = None
    """Phase of the FineTuneJob that ``job://`` names."""
    source_fault: str | None = None
    """Why what is wanted of that job cannot be used, once it has ended."""


def find_obstacle(plan: TrainingPlan, stage: StageName, around: Surroundings) -> Obstacle | None:
    """The first thing that stands in the way of a stage's pods."""
    if stage is StageName.PREPARE and (obstacle := _source_job(plan, around)):
        return obstacle
    if stage is StageName.PREPARE and (obstacle := _chat_template(plan, around)):
        return obstacle
    for use in plan.claim_uses:
        if stage is not StageName.PREPARE and use.field not in (
            "spec.storage.claimRef.name",
            "spec.output.uri",
        ):
            continue
        claim = around.claims.get(use.name)
        if claim is None:
            return Obstacle(
                Reason.CLAIM_NOT_FOUND,
                f"{use.field}: PersistentVolumeClaim {use.name} does not exist in namespace "
                f"{plan.key.namespace}: create it, or name another one",
                stalled=True,
            )
        if use.shared and SHARED not in claim.access_modes:
            return Obstacle(
                Reason.CLAIM_NOT_SHARED,
                f"{use.field}: PersistentVolumeClaim {use.name} is "
                f"{', '.join(claim.access_modes)} and {_writers(plan)} write to it: use a {SHARED} "
                f"claim, or {'workers.count: 1' if plan.wanted > 1 else 'recovery.elastic.max: 1'}",
                # What is immutable cannot heal; recovery may be changed.
                final=plan.wanted > 1,
                stalled=plan.wanted == 1,
            )
    return None


def _writers(plan: TrainingPlan) -> str:
    most = plan.most_workers
    return f"{most} workers" if plan.wanted == most else f"up to {most} workers"


def _source_job(plan: TrainingPlan, around: Surroundings) -> Obstacle | None:
    uri = plan.spec.model.uri
    if not uri.startswith(JOB_SCHEME):
        return None
    name = uri.removeprefix(JOB_SCHEME)
    place = f"spec.model.uri: FineTuneJob {name}"
    if around.source_phase is None:
        return Obstacle(
            Reason.SOURCE_NOT_FOUND,
            f"{place} does not exist in namespace {plan.key.namespace}: create it, or name "
            "another one",
            stalled=True,
        )
    ended, checkpoint = (Phase.SUCCEEDED, Phase.FAILED), plan.spec.model.checkpoint is not None
    if around.source_phase == Phase.FAILED and not checkpoint:
        return Obstacle(
            Reason.SOURCE_NOT_READY,
            f"{place} has failed, so there is no model to start from: name one that succeeded, or "
            "one of its checkpoints in spec.model.checkpoint",
            final=True,
        )
    if around.source_phase not in ended:
        outcome = "ended" if checkpoint else "succeeded"
        return Obstacle(
            Reason.SOURCE_NOT_READY,
            f"{place} has not {outcome} yet (it is {around.source_phase}): waiting for it",
        )
    if around.source_fault:
        field = "spec.model.checkpoint" if checkpoint else "spec.model.uri"
        return Obstacle(
            Reason.SOURCE_NOT_READY,
            f"{field}: FineTuneJob {name} {around.source_fault}",
            final=True,
        )
    return None


def _chat_template(plan: TrainingPlan, around: Surroundings) -> Obstacle | None:
    template = plan.spec.model.chat_template
    if template is None:
        return None
    ref, field = template.config_map_key_ref, "spec.model.chatTemplate.configMapKeyRef"
    if around.template_keys is None:
        return Obstacle(
            Reason.SOURCE_NOT_FOUND,
            f"{field}.name: ConfigMap {ref.name} does not exist in namespace "
            f"{plan.key.namespace}: create it, or name another one",
            stalled=True,
        )
    if ref.key not in around.template_keys:
        return Obstacle(
            Reason.SOURCE_NOT_FOUND,
            f"{field}.key: ConfigMap {ref.name} has no key {ref.key}: add it, or name another one",
            stalled=True,
        )
    return None


def spec_invalid(facts: Facts) -> Verdict | None:
    """The spec contradicts itself in a way that CEL could not see: no pod is ever started."""
    if not facts.faults:
        return None
    message = "; ".join(map(str, facts.faults))
    if facts.status.prepared and facts.faults[0].reason == Reason.BATCH_DOES_NOT_FIT:
        # It was asleep and woke with another number of workers, which can be changed again.
        return Verdict(
            phase=WAITING_PHASES[facts.stage.name],
            state=State.STUCK,
            reason=Reason.BATCH_DOES_NOT_FIT,
            message=message,
            pending_reason=message,
        )
    failure = Failure(failure_class="ConfigInvalid", message=message[:1024], at=facts.now)
    return end_job(facts, facts.faults[0].reason, message, failure=failure)


def obstructed(facts: Facts) -> Verdict | None:
    """Something that the spec names is missing or cannot be used."""
    if facts.obstacle is None or facts.stage.job is not None:
        return None
    obstacle = facts.obstacle
    if obstacle.final:
        failure = Failure(
            failure_class="ConfigInvalid", message=obstacle.message[:1024], at=facts.now
        )
        return end_job(facts, obstacle.reason, obstacle.message, failure=failure)
    return Verdict(
        phase=WAITING_PHASES[facts.stage.name],
        state=State.STUCK if obstacle.stalled else State.MOVING,
        reason=obstacle.reason,
        message=obstacle.message,
        pending_reason=obstacle.message,
        again_after=OBSTACLE_SECONDS,
    )
