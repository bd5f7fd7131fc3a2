"""What a queue says: quota that is there, is not, or was taken back."""

from __future__ import annotations

from ..api.types import StageName
from ..observed import ChildJob
from .facts import Facts

POLL_SECONDS = 15.0
"""Workloads are not watched: a cluster without Kueue does not know them."""


def held_by_queue(facts: Facts) -> bool:
    """The gang's Job is suspended, and it was not us: we end Jobs, we do not suspend them."""
    job = facts.stage.job
    return facts.stage.name is StageName.TRAIN and job is not None and job.suspended


def has_words(facts: Facts) -> bool:
    """The queue has said why it holds the gang back; at first it says nothing."""
    return facts.observed.admission is not None and bool(facts.observed.admission.waiting)


def sentence_of_queue(facts: Facts, job: ChildJob) -> str:
    """What the gang waits for, in one sentence."""
    queue, said = facts.spec.queue, facts.observed.admission
    if queue is None:
        return f"Job {job.name} is held back: somebody suspended it, or a queue that admits it"
    head = f"Job {job.name} waits in queue {queue.name}"
    if said is None:
        return f"{head}: Kueue is not installed, or the operator may not read its Workloads"
    if not said.known:
        return f"{head}: Kueue has not taken it up yet"
    return f"{head}: {said.waiting.rstrip('. ')}" if said.waiting else f"{head} for admission"
