"""kubectl and small manifests for the tests of the local cluster itself."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from local_cluster import LocalCluster
from local_cluster.oci import BUSYBOX_IMAGE


class Kube:
    """kubectl against one cluster."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._command = [
            str(cluster.binaries.path("kubectl")), "--kubeconfig", str(cluster.kubeconfig)
        ]  # fmt: skip

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [*self._command, *arguments], input=stdin, text=True, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout + done.stderr

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
        return found

    def apply(self, *manifests: dict[str, Any], check: bool = True) -> str:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        return self("apply", "-f", "-", stdin=json.dumps(items), check=check)

    def wait_pod(self, name: str, condition: str = "Ready", seconds: int = 60) -> None:
        self("wait", f"--for=condition={condition}", f"pod/{name}", f"--timeout={seconds}s")


def pod(name: str, script: str, *, node: str = "", **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell script; `container` entries of spec go to its container."""
    container = spec.pop("container", {})
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script],
                 **container}
            ],
            **spec,
        },
    }  # fmt: skip


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


WEB = "mkdir -p /tmp/www && echo {word} > /tmp/www/index.html && httpd -f -p 8080 -h /tmp/www"


def eventually(what: str, check: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)


RESTRICTED = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}
RESTRICTED_CONTAINER = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
}


def reaches(kube: Kube, source: str, address: str) -> bool:
    answer = kube("exec", source, "--", "timeout", "2", "wget", "-qO-", f"http://{address}/",
                  check=False)  # fmt: skip
    return "served" in answer


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def is_ready(kube: Kube, node: str) -> str:
    conditions = kube.get("node", node)["status"]["conditions"]
    return next(str(c["status"]) for c in conditions if c["type"] == "Ready")
