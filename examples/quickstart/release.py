"""Installs the operator with helm from our chart, as a user would."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from quickstart.errors import QuickstartError
from quickstart.manifests import Images

CHART = Path(__file__).resolve().parents[2] / "helm" / "finetune-operator"
RELEASE = "finetune-operator"
SYSTEM_NAMESPACE = "finetune-system"
TIMEOUT = 180


def install(helm: Sequence[str], images: Images) -> None:
    """``helm upgrade --install --wait``: returns when the operator is ready."""
    values = [*_image_values("image", images.operator),
              *_image_values("trainer.image", images.trainer)]  # fmt: skip
    sets = [part for value in values for part in ("--set-string", value)]
    done = subprocess.run(
        [*helm, "upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM_NAMESPACE,
         "--create-namespace", "--wait", "--timeout", f"{TIMEOUT}s", *sets],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise QuickstartError(
            f"helm could not install the operator: {done.stderr.strip()}\n"
            f"See `kubectl get pods,events --namespace {SYSTEM_NAMESPACE}`."
        )


def _image_values(prefix: str, reference: str) -> list[str]:
    repository, _, tag = reference.rpartition(":")
    return [f"{prefix}.repository={repository}", f"{prefix}.tag={tag}"]
