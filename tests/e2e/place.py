"""A namespace of its own, with an operator that watches nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.host import processes_of
from e2e.kubectl import Kubectl, wait_for
from e2e.release import helm, helm_install
from faults.site import Site
from faults.truth import watched

from local_cluster import LocalCluster


@contextmanager
def own_operator(
    kubectl: Kubectl, release: str, namespace: str, operator: str, trainer: str, *values: str
) -> Iterator[str]:
    """The namespace, with a shared claim ``work``; ``values``: further settings of the chart.

    Whatever tests do to its jobs, the invariants of the fault matrix must hold.

    operator, trainer: images as ``repository:tag`` or ``repository@digest``.
    """
    kubectl("create", "namespace", namespace)
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    kubectl.apply(claim("work"), namespace=namespace)
    repository, sign, version = trainer.rpartition("@" if "@" in trainer else ":")
    kind = "digest" if sign == "@" else "tag"
    helm_install(
        kubectl, release, namespace, operator,
        f"trainer.image.repository={repository}", f"trainer.image.{kind}={version}", *values,
        literal=f"watchNamespaces={{{namespace}}},crds.enabled=false",
    )  # fmt: skip
    user = f"system:serviceaccount:{namespace}:{account_of(kubectl, namespace, release)}"
    try:
        with watched(kubectl.audit_log, Site(kubectl.api, namespace), user):
            yield namespace
    finally:
        helm(kubectl, namespace, "uninstall", release)
        kubectl("delete", "namespace", namespace, "--wait=false")


def account_of(kubectl: Kubectl, namespace: str, release: str) -> str:
    """Name of the ServiceAccount of a release's operator."""
    selector = f"app.kubernetes.io/instance={release}"
    found = kubectl.json("get", "deployments", "-l", selector, namespace=namespace)["items"]
    (account,) = {item["spec"]["template"]["spec"]["serviceAccountName"] for item in found}
    return str(account)


class OperatorProcess:
    """The process of a release's operator, seen from the host that all nodes run on."""

    def __init__(self, kubectl: Kubectl, namespace: str, release: str) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._release = release

    def pid(self) -> int | None:
        selector = f"app.kubernetes.io/instance={self._release}"
        pods = self._kubectl.json("get", "pods", "-l", selector, namespace=self._namespace)["items"]
        inside = processes_of({pod["metadata"]["uid"] for pod in pods})
        return next((p.pid for p in inside if b"finetune_operator" in p.command), None)

    def kill(self) -> None:
        """kill -9, as soon as it is there."""
        os.kill(wait_for("the operator's process", self.pid), signal.SIGKILL)


def node_of_operator(kubectl: Kubectl, namespace: str, release: str) -> str:
    """Name of the node that a release's operator runs on."""
    selector = f"app.kubernetes.io/instance={release}"
    pods = kubectl.json("get", "pods", "-l", selector, namespace=namespace)["items"]
    return str(next(pod["spec"]["nodeName"] for pod in pods))


def another_node(kubectl: Kubectl, namespace: str, release: str) -> str:
    """Name of a node that it does not run on: one that may die in a test."""
    nodes = [node["metadata"]["name"] for node in kubectl.json("get", "nodes")["items"]]
    return str(next(n for n in nodes if n != node_of_operator(kubectl, namespace, release)))


def host_folder(cluster: LocalCluster, kubectl: Kubectl, namespace: str, name: str) -> Path:
    """Where this host has the files of a claim."""
    asked = ("get", "persistentvolumeclaim", name, "-o", "jsonpath={.spec.volumeName}")
    volume = wait_for(f"claim {name} bound", lambda: kubectl(*asked, namespace=namespace), 30)
    return cluster.paths.volumes / str(volume)


def chat_row(question: str, answer: str | None) -> str:
    """A line of a data file; without an answer there is nothing to learn in it."""
    turns = [("user", question), *([("assistant", answer)] if answer else [])]
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def claim(name: str, mode: str = "ReadWriteMany", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": [mode],
            "resources": {"requests": {"storage": "1Gi"}},
            **spec,
        },
    }


@contextmanager
def small_disk(
    cluster: LocalCluster, kubectl: Kubectl, namespace: str, size: str
) -> Iterator[Path]:
    """A claim ``disk-<size>`` on a file system that holds no more than that; where it is here."""
    name = f"disk-{size}"
    folder = cluster.paths.volumes / name
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", name, folder], check=True)
    on_linux = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_linux]}]}},
        },
    }
    mine = claim(name, storageClassName="", volumeName=name)
    kubectl.apply(volume, namespace=namespace)
    kubectl.apply(mine, namespace=namespace)
    yield folder
    kubectl("delete", "pvc", name, "--wait=false", namespace=namespace)
    kubectl("delete", "pv", name, "--wait=false")
    subprocess.run(["umount", "--lazy", folder], check=True)
