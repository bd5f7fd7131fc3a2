"""The frame of a Kubernetes Job: one attempt of a stage, which never retries by itself."""

from __future__ import annotations

from typing import Any

from ..api.types import StageName
from ..plan import TrainingPlan
from .labels import metadata, stage_labels


def build_job(
    plan: TrainingPlan, stage: StageName, attempt: int, template: dict[str, Any]
) -> dict[str, Any]:
    """An Indexed Job that fails as a whole with its first failed pod.

    Its name is the lock: two creators collide. It is created once and never applied, because a
    Job's template is immutable and queues edit it.
    """
    pods = plan.pods(stage)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(
            plan, plan.job_name(stage, attempt), stage_labels(plan, stage, attempt)
        ),
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": 0,
            # Only legal value beside podFailurePolicy; also: Failed is set when all pods are gone.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            },
            "template": template,
        },
    }
