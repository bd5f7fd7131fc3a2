"""The job that ``job://`` names: what of it is the model, and the lineage that follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..api.lineage import MAX_ANCESTORS
from ..api.types import (
    Ancestor,
    FineTuneJobStatus,
    Lineage,
    ModelCheckpoint,
    OutputFormat,
    Phase,
)
from ..observed import StoredJob
from ..sources import ResolvedOutput


def output_of(
    source: StoredJob, status: FineTuneJobStatus, wish: ModelCheckpoint | None
) -> ResolvedOutput | str:
    """Where the wanted weights of a job that has ended lie; or why they cannot be used, as the
    rest of a sentence that begins with the job. ``status`` is the source's."""
    return _checkpoint(source, status, wish) if wish else _published(source, status)


def _published(source: StoredJob, status: FineTuneJobStatus) -> ResolvedOutput | str:
    """The merged model where there is one: that was loaded again and compared."""
    artifact = status.artifact
    if status.phase is not Phase.SUCCEEDED or artifact is None or not artifact.uri:
        return "has published nothing"
    claim = artifact.uri.removeprefix("pvc://").partition("/")[0]
    lineage = _lineage(source, status, artifact.step, artifact.digest)
    formats = artifact.formats or ()
    if OutputFormat.MERGED in formats:
        return ResolvedOutput(claim, _join(artifact.path, "merged"), lineage=lineage)
    if OutputFormat.ADAPTER in formats:
        folder, base = _join(artifact.path, "adapter"), _workspace(source, "model")
        return ResolvedOutput(claim, folder, base=base, lineage=lineage)
    return "published neither a merged model nor an adapter"


def _checkpoint(
    source: StoredJob, status: FineTuneJobStatus, wish: ModelCheckpoint
) -> ResolvedOutput | str:
    known = status.checkpoints
    if known is None or known.latest is None or known.latest.step is None:
        deleted = _part(source.spec, "checkpoint").get("afterSuccess") == "Delete"
        return (
            "has deleted its checkpoints (its spec.checkpoint.afterSuccess is Delete)"
            if deleted and status.phase is Phase.SUCCEEDED
            else "has saved no checkpoint (see its spec.checkpoint.everySteps)"
        )
    step = wish.step or known.latest.step
    if wish.best:
        if known.best is None or known.best.step is None:
            return (
                "has no best checkpoint: nothing was measured on held-out rows while it trained "
                "(see its spec.evaluation.everySteps)"
            )
        step = known.best.step
    if wish.step and wish.step > known.latest.step:
        return f"has no checkpoint of step {wish.step}: its last one is of step {known.latest.step}"
    claim, folder = _workspace(source)
    return ResolvedOutput(claim, folder, step=step, lineage=_lineage(source, status, step, None))


def _lineage(
    source: StoredJob, status: FineTuneJobStatus, step: int | None, artifact: str | None
) -> Lineage:
    """The chain of a job that starts from ``source``: the source, and the source's own chain."""
    own = Ancestor(
        job=source.name,
        uid=source.uid,
        step=step,
        artifact=artifact,
        data=status.data.digest if status.data else None,
        lock=status.lock.digest if status.lock else None,
    )
    if status.lineage:
        jobs = (own, *status.lineage.jobs)[:MAX_ANCESTORS]
        return status.lineage.model_copy(update={"jobs": jobs})
    uri = _part(source.spec, "model").get("uri")
    model = status.model
    return Lineage(
        jobs=(own,),
        base=uri[:1024] if isinstance(uri, str) else None,
        base_commit=model.commit if model else None,
        base_digest=model.digest if model else None,
    )


def _workspace(source: StoredJob, folder: str = "") -> tuple[str, str]:
    """Claim and folder of a job's own files; see ``plan.TrainingPlan.workspace``."""
    reference = _part(_part(source.spec, "storage"), "claimRef").get("name")
    claim = reference if isinstance(reference, str) else f"{source.name}-work"
    return claim, _join(f"{source.key.namespace}/{source.uid}", folder)


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, Mapping) else {}


def _join(path: str | None, name: str) -> str:
    return "/".join(part for part in (path, name) if part)
