"""A cluster with our images and our chart, and the quickstart's job on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

from local_cluster import LocalCluster
from local_cluster.images import build_model, build_operator, build_trainer
from local_cluster.seed import refresh_seed
from quickstart import images, manifests, release
from quickstart.kube import Kube, Object
from quickstart.options import NAMESPACE, Options

PATIENCE_SECONDS = 600.0

T = TypeVar("T")


@contextmanager
def installed(name: str) -> Iterator[tuple[LocalCluster, Kube, manifests.Images]]:
    """A cluster of one node with our images and our chart; down in the end."""
    cluster = LocalCluster(name)
    cluster.prepare(_stage)
    cluster.binaries.build(["helm"], _stage)
    ours = manifests.Images(
        operator=build_operator(_say),
        trainer=build_trainer(_say),
        model=build_model(_say),
        data=images.build_data(Options(), _say),
    )
    for image in astuple(ours):
        cluster.push(image)
    refresh_seed(cluster.cache, cluster.binaries, astuple(ours)[:3], _say)
    cluster.up(nodes=1, report=_stage)
    try:
        helm = [str(cluster.binaries.path("helm")), "--kubeconfig", str(cluster.kubeconfig)]
        release.install(helm, ours)
        yield cluster, Kube(cluster.kubeconfig), ours
    finally:
        cluster.down()


def _stage(stage: str, detail: str) -> None:
    _say(f"{stage}: {detail}")


def _say(detail: str) -> None:
    print(detail, flush=True)


def said(what: str, measured: T) -> T:
    """``measured``, printed."""
    print(f"{what}: {measured}", flush=True)
    return measured


@contextmanager
def running_job(
    cluster: LocalCluster,
    kube: Kube,
    ours: manifests.Images,
    name: str,
    *,
    steps: int,
    **spec: Any,
) -> Iterator[Path]:
    """The quickstart's job, cut down to so many steps, with these fields of the spec replaced.

    Yields the folder of its attempts, as this host has it, once its claim is bound; in the end job
    and claim are deleted, and its pods are gone.
    """
    kube.apply(manifests.namespace())
    claim, job = manifests.claim_and_job(Options(name=name), ours)
    job["spec"] |= spec
    job["spec"]["training"] |= {"steps": steps}
    del job["spec"]["training"]["epochs"]
    kube.apply(claim)
    uid = kube.apply(job)["metadata"]["uid"]
    claimed = "v1", "PersistentVolumeClaim", claim["metadata"]["name"], NAMESPACE
    try:
        volume = until("the claim's volume", lambda: _volume(kube.get(*claimed)))
        yield cluster.paths.volumes / volume / NAMESPACE / uid / "attempts"
    finally:
        kube.delete(manifests.API_VERSION, manifests.KIND, name, NAMESPACE)
        kube.delete(*claimed)
        until("the end of the job's pods", lambda: not pods_of(kube, name))


def _volume(claim: Object | None) -> str | None:
    return ((claim or {}).get("spec") or {}).get("volumeName")


def pods_of(kube: Kube, name: str, more: str = "") -> list[Object]:
    """A job's pods; ``more``: further parts of a label selector, after a comma."""
    return kube.list("v1", "Pod", NAMESPACE, f"finetune.dev/job={name}{more}")


def runs(pod: Object) -> bool:
    found = pod["status"].get("containerStatuses") or [{}]
    return "running" in found[0].get("state", {})


def until(what: str, probe: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.2)
    return found
