"""Whether a result that another job has published stands for training.

Decided once, when prepare is done and before a training pod exists: only then is it known what the
model and the data really are. The export pod checks the files against their hashes; where they do
not agree, the job trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ..api.types import FineTuneJobStatus, Lock, Phase, Reuse, Reused, StageName
from ..observed import StoredJob
from ..plan import TrainingPlan
from ..reports import LastWords
from .facts import Facts, PublishedResult

LONG_AGO = datetime.min.replace(tzinfo=UTC)


def wants_results(facts: Facts) -> bool:
    """Prepare is done, and the results of other jobs may matter."""
    stage = facts.stage
    wish = facts.spec.output.reuse
    done = stage.name is StageName.PREPARE and stage.job is not None and stage.job.complete
    return done and wish is Reuse.SAME_LOCK


def published_result(job: StoredJob, status: FineTuneJobStatus) -> PublishedResult | None:
    """What a job has published; None where it has nothing that could be told from other things."""
    artifact, lock = status.artifact, status.lock
    if status.phase is not Phase.SUCCEEDED or lock is None or artifact is None:
        return None
    if not artifact.uri or not artifact.path or status.completion_time is None:
        return None
    return PublishedResult(
        job=job.name,
        uid=job.uid,
        lock=lock.digest,
        claim=artifact.uri.removeprefix("pvc://").partition("/")[0],
        path=artifact.path,
        formats=frozenset(artifact.formats or ()),
        completed=status.completion_time,
    )


def found_in_place(plan: TrainingPlan, words: LastWords | None) -> PublishedResult | None:
    """What prepare has found at the place of this job's result: of a job that may be gone."""
    found = words.published if words else None
    claim = plan.output_claim
    if found is None or claim is None:
        return None
    return PublishedResult(
        job=found.job,
        uid=found.uid,
        lock=found.lock,
        claim=claim,
        path=plan.output_path,
        formats=frozenset(found.formats),
        completed=LONG_AGO,
    )


def reusable(facts: Facts, lock: Lock | None, words: LastWords | None) -> Reused | None:
    """The result to take instead of training, once prepare is done."""
    plan = facts.known_plan
    in_place = found_in_place(plan, words)
    results = (*facts.results, in_place) if in_place else facts.results
    found = twin(plan, lock, results)
    return None if found is None else Reused(job=found.job, uid=found.uid, path=found.path)


def twin(
    plan: TrainingPlan, lock: Lock | None, results: Iterable[PublishedResult]
) -> PublishedResult | None:
    """The newest result of the same lock that can be taken: with all wanted forms, and on the claim
    of this job's result, so that nobody reads another claim than he names."""
    if lock is None or plan.spec.output.reuse is not Reuse.SAME_LOCK:
        return None
    claim = plan.output_claim or plan.claim_name
    wanted = {form.value for form in plan.spec.output.formats}
    fitting = [
        result
        for result in results
        if result.lock == lock.digest and result.claim == claim and wanted <= result.formats
    ]
    return max(fitting, key=lambda result: (result.completed, result.uid), default=None)
