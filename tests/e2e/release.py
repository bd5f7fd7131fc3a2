"""Our chart, installed by real helm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from e2e.kubectl import Kubectl
from e2e.prometheus import Monitor
from e2e.prometheus import monitors as read_monitors

from local_cluster import binaries as cluster_binaries

CHART = Path(__file__).resolve().parents[2] / "helm" / "finetune-operator"
ROLLOUT_SECONDS = 120


def helm(kubectl: Kubectl, namespace: str, *arguments: str) -> str:
    """helm against kubectl's cluster; a failure carries its stderr."""
    done = subprocess.run(
        [
            str(cluster_binaries.path("helm")), *arguments,
            "--kubeconfig", str(kubectl.kubeconfig), "--namespace", namespace,
        ],
        capture_output=True, text=True, timeout=ROLLOUT_SECONDS + 60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def helm_install(
    kubectl: Kubectl, release: str, namespace: str, image: str, *values: str, literal: str = ""
) -> None:
    """Install or upgrade the operator of ``image``; returns when its pod is ready.

    values: settings as strings (a tag of digits stays one); literal: settings as YAML.
    """
    repository, tag = image.rsplit(":", 1)
    strings = ",".join((f"image.repository={repository},image.tag={tag}", *values))
    typed = ["--set", literal] if literal else []
    helm(
        kubectl, namespace, "upgrade", "--install", release, str(CHART), "--create-namespace",
        "--set-string", strings, *typed, "--wait", "--timeout", f"{ROLLOUT_SECONDS}s",
    )  # fmt: skip


def monitors() -> list[Monitor]:
    """What the chart asks of Prometheus when its monitors are on."""
    done = subprocess.run(
        [
            str(cluster_binaries.path("helm")), "template", "finetune-operator", str(CHART),
            "--set", "metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true",
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return read_monitors([manifest for manifest in yaml.safe_load_all(done.stdout) if manifest])
