"""Installs the operator with helm from our chart, as a user would."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from quickstart.errors import QuickstartError
from quickstart.kube import Kube
from quickstart.manifests import Images

CHART = Path(__file__).resolve().parents[2] / "helm" / "finetune-operator"
RELEASE = "finetune-operator"
SYSTEM_NAMESPACE = "finetune-system"
TIMEOUT = 180
MARK = "finetune.dev/quickstart"
"""Label of the releases that the quickstart made."""


def install(helm: Sequence[str], images: Images) -> None:
    """``helm upgrade --install --wait``: returns when the operator is ready."""
    values = [*_image_values("image", images.operator),
              *_image_values("trainer.image", images.trainer)]  # fmt: skip
    sets = [part for value in values for part in ("--set-string", value)]
    command = [*helm, "upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM_NAMESPACE,
               "--create-namespace", "--labels", f"{MARK}=true", "--wait",
               "--timeout", f"{TIMEOUT}s", *sets]  # fmt: skip
    done = _run(command)
    if done.returncode != 0 and "another operation" in done.stderr:
        # A helm that was killed holds the release for ever. Jobs and the CRD outlive this.
        _run([*helm, "uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--wait"])
        done = _run(command)
    if done.returncode != 0:
        raise QuickstartError(
            f"helm could not install the operator: {done.stderr.strip()}\n"
            f"See `kubectl get pods,events --namespace {SYSTEM_NAMESPACE}`."
        )


def refuse_another(kube: Kube, where: str) -> None:
    """Raise where a release of this name is not the quickstart's: it would be replaced."""
    selector = f"owner=helm,name={RELEASE}"
    found = kube.list("v1", "Secret", SYSTEM_NAMESPACE, selector)
    if all(MARK in (each["metadata"].get("labels") or {}) for each in found):
        return
    raise QuickstartError(
        f"{where} has a release {RELEASE} in namespace {SYSTEM_NAMESPACE} that the quickstart did "
        "not install and would replace: use another cluster, or give the operator that is there a "
        "manifest of examples/."
    )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _image_values(prefix: str, reference: str) -> list[str]:
    repository, _, tag = reference.rpartition(":")
    return [f"{prefix}.repository={repository}", f"{prefix}.tag={tag}"]
