"""The chart's whole life by real helm, on a cluster of its own that nobody else installs into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from e2e.contract_trainer import upload_contract_trainer
from e2e.jobs import Jobs
from e2e.kubectl import Kubectl, wait_for
from e2e.place import claim
from e2e.release import CHART, helm, helm_install

from local_cluster import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RELEASE = "tuning"
NAMESPACE = "helm-life"
SWEPT = "all,configmap,secret,serviceaccount,role,rolebinding,poddisruptionbudget"
CLUSTER_WIDE = "clusterrole,clusterrolebinding,customresourcedefinition"


@pytest.fixture
def cluster(images: Any) -> Iterator[LocalCluster]:
    """A second cluster; the first one, if it is up, goes on beside it."""
    cluster = LocalCluster("finetune-helm")
    cluster.push(images.operator)
    cluster.up(nodes=1)
    yield cluster
    cluster.down()


def ours(kubectl: Any, kinds: str, *where: str) -> set[str]:
    listed = kubectl(
        "get", kinds, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name", *where
    )
    return set(listed.split())


def test_a_job_trains_through_an_upgrade_and_uninstall_leaves_the_kept_crd_and_its_objects(
    cluster: LocalCluster, images: Any
) -> None:
    """The upgrade brings another trainer image, which cannot be pulled: the job keeps its own."""
    kubectl = Kubectl.of(cluster)
    repository, digest = upload_contract_trainer(cluster.registry).split("@")
    trainer = f"trainer.image.repository={repository}", f"trainer.image.digest={digest}"
    helm_install(kubectl, RELEASE, NAMESPACE, images.operator, *trainer)
    sample = yaml.safe_load((CHART.parents[1] / "tests/samples/minimal.yaml").read_text())
    sample["metadata"]["name"] = "survivor"
    kubectl("apply", "-f", "-", namespace=NAMESPACE, stdin=json.dumps(sample))
    before = kubectl.json("get", "deployment", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}")
    kubectl.apply(claim("work"), namespace=NAMESPACE)
    jobs = Jobs(kubectl, NAMESPACE)
    jobs.apply("running", steps=25)
    wait_for("training", lambda: (jobs.status("running").get("progress") or {}).get("step"), 90)
    children = jobs.children("running", "jobs,pods")

    another = "trainer.image.repository=nowhere.invalid/trainer", "trainer.image.digest="
    helm_install(
        kubectl, RELEASE, NAMESPACE, images.operator, *another, "trainer.image.tag=next",
        literal="logLevel=DEBUG",
    )  # fmt: skip
    after = kubectl.json("get", "deployment", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}")
    assert "DEBUG" in json.dumps(after) and "DEBUG" not in json.dumps(before)
    assert after["items"][0]["status"]["readyReplicas"] == 1
    status = jobs.wait_phase("running", "Succeeded", "Failed", seconds=90)
    assert status["phase"] == "Succeeded", status
    assert status.get("restarts", 0) == 0
    assert children.items() <= jobs.children("running", "jobs,pods").items()

    helm(kubectl, NAMESPACE, "uninstall", RELEASE, "--wait")
    wait_for("nothing is left", lambda: not ours(kubectl, SWEPT, "-n", NAMESPACE), 30)
    assert ours(kubectl, CLUSTER_WIDE) == {
        "customresourcedefinition.apiextensions.k8s.io/finetunejobs.finetune.dev"
    }
    kept = kubectl.json("get", "finetunejob", "survivor", namespace=NAMESPACE)
    assert kept["metadata"]["uid"]
