"""The objects that the quickstart applies: ``job.yaml`` filled in, and the answering Job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quickstart.dataset import EVAL_FILE, TRAIN_FILE
from quickstart.options import NAMESPACE, Options

JOB_YAML = Path(__file__).with_name("job.yaml")
API_VERSION = "finetune.dev/v1alpha1"
KIND = "FineTuneJob"

Object = dict[str, Any]

MARK = "finetune.dev/quickstart"
"""Annotation of the quickstart's jobs: the hash of the spec as it was applied.

The API server fills in defaults, so the stored spec itself cannot be compared.
"""

SHORT_FACTS = 12
SHORT_EPOCHS = "3"
"""Few facts make short epochs; a fact has to be seen as often as in the whole job."""
SHORT_EVERY_STEPS = 24
"""Fewer steps: evaluations and checkpoints come sooner too."""


@dataclass(frozen=True)
class Images:
    """References as the cluster's nodes pull them."""

    operator: str
    trainer: str
    model: str
    data: str


def namespace() -> Object:
    """Everything of the example runs under the restricted pod security profile."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }


def claim_and_job(options: Options, images: Images) -> tuple[Object, Object]:
    """``job.yaml`` with the names, images and sizes of this run."""
    claim, job = yaml.safe_load_all(JOB_YAML.read_text(encoding="utf-8"))
    claim_name = f"{options.name}-workspace"
    claim["metadata"] = {"name": claim_name, "namespace": NAMESPACE}
    if options.foreign and options.foreign.storage_class:
        claim["spec"]["storageClassName"] = options.foreign.storage_class

    spec = job["spec"]
    spec["model"]["uri"] = f"image://{images.model}"
    for source, file in ((spec["data"]["train"], TRAIN_FILE), (spec["data"]["eval"], EVAL_FILE)):
        source[0] |= {"uri": f"image://{images.data}", "file": file}
    spec["storage"] = {"claimRef": {"name": claim_name}}
    if options.short:
        spec["training"]["epochs"] = SHORT_EPOCHS
        spec["evaluation"]["everySteps"] = SHORT_EVERY_STEPS
        spec["checkpoint"]["everySteps"] = SHORT_EVERY_STEPS
    job["metadata"] = {
        "name": options.name,
        "namespace": NAMESPACE,
        "annotations": {MARK: _digest(spec)},
    }
    return claim, job


def _digest(spec: Object) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
