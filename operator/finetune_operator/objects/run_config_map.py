"""The ConfigMap that carries run.json, and the manifest that serves the result."""

from __future__ import annotations

import json
from typing import Any

from ..plan import TrainingPlan
from ..run_defaults import without_defaults
from .labels import job_labels, metadata
from .serving import serving_manifest

RUN_JSON = "run.json"
SERVING = "serving.yaml"


def build_run_config_map(plan: TrainingPlan) -> dict[str, Any]:
    """The ConfigMap ``<name>-run``. The text is stable, so an unchanged plan changes nothing."""
    serving = serving_manifest(plan)
    text = json.dumps(without_defaults(plan.run_config), indent=2, sort_keys=True) + "\n"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(plan, plan.config_map_name, job_labels(plan)),
        "data": {RUN_JSON: text, **({SERVING: serving} if serving else {})},
    }
