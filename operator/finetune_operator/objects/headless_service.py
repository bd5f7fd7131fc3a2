"""The headless Service that gives the gang's pods their names in DNS."""

from __future__ import annotations

from typing import Any

from ..api.types import StageName
from ..plan import TrainingPlan
from ..run_config import METRICS_PORT
from .labels import JOB_LABEL, STAGE_LABEL, UID_LABEL, job_labels, metadata


def build_headless_service(plan: TrainingPlan) -> dict[str, Any]:
    """The Service ``<name>``, for all attempts of the job."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(plan, plan.service_name, job_labels(plan)),
        "spec": {
            "clusterIP": "None",
            # Ranks must find each other before they are ready.
            "publishNotReadyAddresses": True,
            "selector": {
                JOB_LABEL: plan.key.name,
                UID_LABEL: plan.uid,
                STAGE_LABEL: StageName.TRAIN.value,
            },
            "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": METRICS_PORT}],
        },
    }
