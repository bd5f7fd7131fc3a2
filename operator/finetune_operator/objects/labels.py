"""Names, labels and ownership of everything that a FineTuneJob makes."""

from __future__ import annotations

from typing import Any

from ..api.types import API_VERSION, GROUP, KIND, StageName
from ..plan import TrainingPlan

JOB_LABEL = f"{GROUP}/job"
"""Name of the FineTuneJob; the watches select by it."""
UID_LABEL = f"{GROUP}/uid"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
MANAGED_BY = {"app.kubernetes.io/managed-by": "finetune-operator"}
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def job_labels(plan: TrainingPlan) -> dict[str, str]:
    """Labels of every child. The job's own labels are not copied: GitOps tools would prune."""
    return {JOB_LABEL: plan.key.name, UID_LABEL: plan.uid, **MANAGED_BY}


def stage_labels(plan: TrainingPlan, stage: StageName, attempt: int) -> dict[str, str]:
    """Labels of the Job and the pods of one attempt."""
    return {**job_labels(plan), STAGE_LABEL: stage.value, ATTEMPT_LABEL: str(attempt)}


def metadata(plan: TrainingPlan, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Metadata of a child: owned by the FineTuneJob, so it is collected with it."""
    return {
        "name": name,
        "namespace": plan.key.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": plan.key.name,
                "uid": plan.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
