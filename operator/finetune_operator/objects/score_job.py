"""score: one CPU pod with the user's scorers, side by side, after the answers are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..api.types import Scorer, StageName
from ..plan import TrainingPlan
from .job import build_job
from .pod import alone, labelled, own_command, restricted

ANSWERS = "/scoring/answers.jsonl"
SCORES = "/dev/termination-log"
"""The kubelet reads it: at most 4 KiB, and no volume is shared with the scorers."""


def build_score_job(
    plan: TrainingPlan,
    attempt: int,
    train_attempt: int,
    avoid: Sequence[str] = (),
    suspect: Sequence[str] = (),
) -> dict[str, Any]:
    """The Job ``<name>-s<attempt>`` over the answers of training attempt ``train_attempt``;
    ``avoid`` and ``suspect`` as for ``elsewhere``.

    It always comes to an end: its pod after the deadline of the scorers, the Job itself, where its
    pod never gets a node, after that of a start besides.
    """
    generation = plan.spec.evaluation.generation
    if generation is None:
        raise AssertionError("a job without answers has no scorers")
    deadline = generation.scorer_deadline_seconds
    answers = f"{plan.workspace}/attempts/{train_attempt}/answers.jsonl"
    spec: dict[str, Any] = {
        **restricted(),
        "activeDeadlineSeconds": deadline,
        "containers": [_container(scorer, answers) for scorer in plan.scorers],
        "volumes": [
            {
                "name": "workspace",
                "persistentVolumeClaim": {"claimName": plan.claim_name},
            },
            *({"name": f"tmp-{scorer.name}", "emptyDir": {}} for scorer in plan.scorers),
        ],
        **alone(plan.spec.export, avoid, suspect),
    }
    template = labelled(plan, StageName.SCORE, attempt, spec)
    job = build_job(plan, StageName.SCORE, attempt, template)
    job["spec"]["activeDeadlineSeconds"] = deadline + plan.spec.start_deadline_seconds
    return job


def _container(scorer: Scorer, answers: str) -> dict[str, Any]:
    return {
        "name": scorer.name,
        **own_command(scorer),
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "ANSWERS", "value": ANSWERS},
            {"name": "SCORES", "value": SCORES},
        ],
        "volumeMounts": [
            {"name": f"tmp-{scorer.name}", "mountPath": "/tmp"},  # noqa: S108
            {
                "name": "workspace",
                "mountPath": ANSWERS,
                "subPath": answers,
                "readOnly": True,
            },
        ],
    }
