"""Queueing of the gang by Kueue: ``spec.queue``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import DNS_SUBDOMAIN, SpecModel

LabelledName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_SUBDOMAIN)]


class Queue(SpecModel):
    """The queue that admits the training pods. The gang's Kubernetes Job is made suspended and
    starts once Kueue has found quota for all of its pods; preparing and publishing hold no GPU
    and do not wait. Every attempt queues anew; a change counts from the next attempt on."""

    name: LabelledName
    """LocalQueue of Kueue, in the job's namespace."""
    priority_class: LabelledName | None = None
    """WorkloadPriorityClass of Kueue: who goes first, and who may evict whom."""
