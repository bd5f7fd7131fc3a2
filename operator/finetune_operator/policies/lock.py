"""The lock: what decides a result, as digests. Equal locks would make the same model."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

from ..api.types import Lock
from ..memory_ladder import Fit
from ..observed import ChildPod
from ..plan import TrainingPlan
from ..reports import LastWords
from .facts import Facts

DECIDING = ("method", "training", "zeroStage", "workers", "evaluation", "gate")
"""Parts of run.json that decide the weights, or whether they may be published. What the data and
the model are is told by their own digests."""
ASKED_FOR = ("offload",)
"""More of them. Where a job does not ask for such a part its digest does not know of it, as before
that part was thought of."""
REACTIONS = ("onNonFinite", "onLossSpike", "lossSpike", "maxSkippedSteps")
"""The same of its part ``recovery``: they say which steps count."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def lock_of(facts: Facts, words: LastWords | None, fit: Fit) -> Lock | None:
    """The lock of what prepare made, by its last words, to be trained in shape ``fit``; None where
    they do not say enough."""
    if words is None or words.model is None or words.data is None:
        return None
    plan = replace(facts.known_plan, fit=fit)
    model, data = words.model.digest, words.data.digest
    if not model or not data:
        return None
    spec, seed = spec_digest(plan), plan.spec.training.seed
    ran = _image_digest(facts)
    decides = {
        "model": model,
        "data": data,
        "spec": spec,
        "image": ran or plan.image,
        "versions": words.versions,
        "seed": seed,
    }
    return Lock(
        digest=digest_of(decides),
        model=model,
        model_commit=words.model.commit,
        data=data,
        spec=spec,
        image=plan.image,
        image_digest=ran,
        versions=words.versions or None,
        seed=seed,
    )


def spec_digest(plan: TrainingPlan) -> str:
    """Digest of what the trainer is told to do, with what absent fields became."""
    told = plan.run_config
    decides = {name: told.get(name) for name in DECIDING}
    # Where ratings are looked for changes nothing; what they decide stands in the gate.
    evaluation = decides["evaluation"] or {}
    decides["evaluation"] = {name: part for name, part in evaluation.items() if name != "human"}
    decides |= {name: told[name] for name in ASKED_FOR if name in told}
    decides["recovery"] = {name: told["recovery"].get(name) for name in REACTIONS}
    return digest_of(decides)


def digest_of(content: Any) -> str:
    """SHA-256 of a JSON value, as ``sha256:<hex>``."""
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(body.encode()).hexdigest()


def _image_digest(facts: Facts) -> str | None:
    """Digest of the image that prepare ran from: as the node told it, or as the spec pins it."""
    pods: tuple[ChildPod, ...] = (*facts.observed.last_words, *facts.stage.pods)
    names = (*(pod.image_id for pod in pods), facts.known_plan.image)
    return next((found[0] for name in names if (found := _DIGEST.search(name))), None)
