"""The chart's whole life by real helm, on a cluster of its own that nobody else installs into."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.conftest import Kubectl, wait_for

from local_cluster import LocalCluster
from local_cluster import binaries as cluster_binaries

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RELEASE = "tuning"
NAMESPACE = "helm-life"
SWEPT = "all,configmap,secret,serviceaccount,role,rolebinding,poddisruptionbudget"
CLUSTER_WIDE = "clusterrole,clusterrolebinding,customresourcedefinition"


@pytest.fixture
def kubectl(images: Any, chart: Path) -> Iterator[Any]:
    """kubectl on a second cluster; the first one, if it is up, goes on beside it."""
    cluster = LocalCluster("finetune-helm")
    cluster.push(images.operator)
    cluster.up(nodes=1)
    yield Kubectl(cluster.kubeconfig, cluster_binaries.path("kubectl"))
    cluster.down()


def helm(kubectl: Any, *arguments: str) -> str:
    done = subprocess.run(
        [
            str(cluster_binaries.path("helm")), *arguments,
            "--kubeconfig", str(kubectl.kubeconfig), "--namespace", NAMESPACE,
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def ours(kubectl: Any, kinds: str, *where: str) -> set[str]:
    listed = kubectl(
        "get", kinds, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name", *where
    )
    return set(listed.split())


def test_install_upgrade_and_uninstall_leave_only_the_kept_crd_and_its_objects(
    kubectl: Any, images: Any, chart: Path
) -> None:
    repository, tag = images.operator.rsplit(":", 1)
    values = ["--set-string", f"image.repository={repository},image.tag={tag}", "--wait"]

    helm(kubectl, "install", RELEASE, str(chart), "--create-namespace", *values)
    sample = yaml.safe_load((chart.parents[1] / "tests/samples/minimal.yaml").read_text())
    sample["metadata"]["name"] = "survivor"
    kubectl("apply", "-f", "-", namespace=NAMESPACE, stdin=json.dumps(sample))
    before = kubectl.json("get", "deployment", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}")

    helm(kubectl, "upgrade", RELEASE, str(chart), *values, "--set", "logLevel=DEBUG")
    after = kubectl.json("get", "deployment", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}")
    assert "DEBUG" in json.dumps(after) and "DEBUG" not in json.dumps(before)
    assert after["items"][0]["status"]["readyReplicas"] == 1

    helm(kubectl, "uninstall", RELEASE, "--wait")
    wait_for("nothing is left", lambda: not ours(kubectl, SWEPT, "-n", NAMESPACE), 30)
    assert ours(kubectl, CLUSTER_WIDE) == {
        "customresourcedefinition.apiextensions.k8s.io/finetunejobs.finetune.dev"
    }
    kept = kubectl.json("get", "finetunejob", "survivor", namespace=NAMESPACE)
    assert kept["metadata"]["uid"]
