"""The claim of ``spec.storage.size``."""

from __future__ import annotations

from typing import Any

from ..plan import TrainingPlan
from .labels import job_labels, metadata


def build_claim(plan: TrainingPlan) -> dict[str, Any] | None:
    """The claim ``<name>-work``, deleted with the job; None where the job brings its own."""
    storage = plan.spec.storage
    if storage.size is None:
        return None
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany" if plan.most_workers > 1 else "ReadWriteOnce"],
        "resources": {"requests": {"storage": str(storage.size)}},
    }
    if storage.class_name:
        spec["storageClassName"] = storage.class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(plan, plan.claim_name, job_labels(plan)),
        "spec": spec,
    }
