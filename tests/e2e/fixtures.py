"""One real cluster for each process that has tests of it: three nodes, our images, our chart.

``E2E_KEEP=1`` leaves the cluster up afterwards; a later session then finds it warm.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from e2e.kubectl import Kubectl, wait_for
from e2e.prometheus import Prometheus, running_prometheus
from e2e.release import helm_install, monitors
from faults.site import Site
from faults.truth import watched

from local_cluster import LocalCluster
from local_cluster import images as cluster_images
from local_cluster.seed import refresh_seed

SYSTEM_NAMESPACE = "finetune-system"
SHARED_DEPLOYMENT = "deployment/finetune-operator"
SHARED_USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:finetune-operator"


@dataclass(frozen=True)
class Images:
    operator: str
    trainer: str
    model: str


def _say(stage: str, detail: str) -> None:
    print(f"[{stage}] {detail}", flush=True)


def _built(detail: str) -> None:
    _say("images", detail)


@pytest.fixture(scope="session")
def prepared(worker_id: str) -> LocalCluster:
    """The programs built and the host's packages installed; nothing started."""
    name = "finetune-test" if worker_id == "master" else f"finetune-test-{worker_id}"
    cluster = LocalCluster(name, audit_objects=True)
    cluster.prepare(_say)
    cluster.binaries.build(["helm"], _say)
    return cluster


@pytest.fixture(scope="session")
def images(prepared: LocalCluster) -> Images:
    """Our images, built from this tree."""
    return Images(
        operator=cluster_images.build_operator(_built),
        trainer=cluster_images.build_trainer(_built),
        model=cluster_images.build_model(_built),
    )


@pytest.fixture(scope="session")
def audited_before(prepared: LocalCluster) -> int:
    """Bytes that the audit log of a warm cluster has from earlier sessions."""
    log = prepared.paths.audit_log
    return log.stat().st_size if log.exists() else 0


@pytest.fixture(scope="session")
def cluster(prepared: LocalCluster, images: Images, audited_before: int) -> Iterator[LocalCluster]:
    """Three nodes with two advertised GPUs each, the images in the registry and on the nodes."""
    cluster = prepared
    ours = [images.operator, images.trainer, images.model]
    for image in ours:
        cluster.push(image)
    refresh_seed(cluster.cache, cluster.binaries, ours, lambda text: _say("seed", text))
    cluster.up(nodes=3, gpus=2, report=_say)
    yield cluster
    if not os.environ.get("E2E_KEEP"):
        cluster.down()


@pytest.fixture(scope="session")
def kubectl(cluster: LocalCluster) -> Kubectl:
    return Kubectl.of(cluster)


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace under the restricted pod security profile, gone afterwards.

    Whatever a test does to its jobs, the invariants of the fault matrix must hold, unless it writes
    their statuses itself.
    """
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    wait_for(
        "default service account",
        lambda: kubectl.run("get", "serviceaccount", "default", namespace=name).returncode == 0,
        30,
    )
    by_hand = request.node.get_closest_marker("statuses_by_hand")
    site = Site(kubectl.api, name)
    try:
        with nullcontext() if by_hand else watched(kubectl.audit_log, site, SHARED_USER):
            yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def operator(cluster: LocalCluster, kubectl: Kubectl, images: Images) -> str:
    """The operator, installed from our chart by helm; returns its namespace."""
    trainer_repository, trainer_tag = images.trainer.rsplit(":", 1)
    helm_install(
        kubectl, "finetune-operator", SYSTEM_NAMESPACE, images.operator,
        f"trainer.image.repository={trainer_repository},trainer.image.tag={trainer_tag}",
    )  # fmt: skip
    return SYSTEM_NAMESPACE


@contextmanager
def asleep(kubectl: Kubectl, operator: str) -> Iterator[None]:
    """The session's operator, which installed the CRD, sleeps while tests use their own."""
    kubectl("scale", SHARED_DEPLOYMENT, "--replicas=0", namespace=operator)
    selector = "app.kubernetes.io/name=finetune-operator"
    wait_for(
        "the shared operator sleeps",
        lambda: not kubectl.json("get", "pods", "-l", selector, namespace=operator)["items"],
        60,
    )
    yield
    kubectl("scale", SHARED_DEPLOYMENT, "--replicas=1", namespace=operator)


@pytest.fixture(scope="module")
def shared_operator_asleep(kubectl: Kubectl, operator: str) -> Iterator[None]:
    """For a module whose tests use an operator of their own."""
    with asleep(kubectl, operator):
        yield


@pytest.fixture(scope="session")
def prometheus(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus that sees training pods and the operator from now on."""

    def running(selector: str) -> Any:
        only = "--field-selector=status.phase=Running"
        return kubectl.json("get", "pods", "-A", "-l", selector, only)

    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(running, monitors(), folder) as server:
        yield server
