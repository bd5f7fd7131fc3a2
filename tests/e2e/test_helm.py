"""The chart's whole life by real helm, on a cluster of its own that nobody else installs into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from e2e.kubectl import Kubectl, wait_for
from e2e.release import CHART, helm, helm_install

from local_cluster import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RELEASE = "tuning"
NAMESPACE = "helm-life"
SWEPT = "all,configmap,secret,serviceaccount,role,rolebinding,poddisruptionbudget"
CLUSTER_WIDE = "clusterrole,clusterrolebinding,customresourcedefinition"


@pytest.fixture
def kubectl(images: Any) -> Iterator[Any]:
    """kubectl on a second cluster; the first one, if it is up, goes on beside it."""
    cluster = LocalCluster("finetune-helm")
    cluster.push(images.operator)
    cluster.up(nodes=1)
    yield Kubectl.of(cluster)
    cluster.down()


def ours(kubectl: Any, kinds: str, *where: str) -> set[str]:
    listed = kubectl(
        "get", kinds, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name", *where
    )
    return set(listed.split())


def test_install_upgrade_and_uninstall_leave_only_the_kept_crd_and_its_objects(
    kubectl: Any, images: Any
) -> None:
    helm_install(kubectl, RELEASE, NAMESPACE, images.operator)
    sample = yaml.safe_load((CHART.parents[1] / "tests/samples/minimal.yaml").read_text())
    sample["metadata"]["name"] = "survivor"
    kubectl("apply", "-f", "-", namespace=NAMESPACE, stdin=json.dumps(sample))
    before = kubectl.json("get", "deployment", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}")

    helm_install(kubectl, RELEASE, NAMESPACE, images.operator, literal="logLevel=DEBUG")
    after = kubectl.json("get", "deployment", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}")
    assert "DEBUG" in json.dumps(after) and "DEBUG" not in json.dumps(before)
    assert after["items"][0]["status"]["readyReplicas"] == 1

    helm(kubectl, NAMESPACE, "uninstall", RELEASE, "--wait")
    wait_for("nothing is left", lambda: not ours(kubectl, SWEPT, "-n", NAMESPACE), 30)
    assert ours(kubectl, CLUSTER_WIDE) == {
        "customresourcedefinition.apiextensions.k8s.io/finetunejobs.finetune.dev"
    }
    kept = kubectl.json("get", "finetunejob", "survivor", namespace=NAMESPACE)
    assert kept["metadata"]["uid"]
