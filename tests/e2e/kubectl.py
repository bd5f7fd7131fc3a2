"""The real kubectl, and waiting for what it shows."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_cluster import LocalCluster
from local_cluster.api import Api

PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Kubectl:
    """The real kubectl against one cluster. Failures carry its stderr.

    ``api`` is the same door for what a test asks again and again: a start of kubectl costs a tenth
    of a second of CPU.
    """

    kubeconfig: Path
    binary: Path
    api: Api
    audit_log: Path
    """Where the API server writes down each request."""

    @classmethod
    def of(cls, cluster: LocalCluster) -> Kubectl:
        """As the administrator of a local cluster that is up."""
        program = cluster.binaries.path("kubectl")
        api = cluster.control_plane().api
        return cls(cluster.kubeconfig, program, api, cluster.paths.audit_log)

    def run(
        self, *args: str, namespace: str | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        where = ["--namespace", namespace] if namespace else []
        return subprocess.run(
            [str(self.binary), "--kubeconfig", str(self.kubeconfig), *where, *args],
            input=stdin, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    def __call__(self, *args: str, namespace: str | None = None, stdin: str | None = None) -> str:
        done = self.run(*args, namespace=namespace, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def json(self, *args: str, namespace: str | None = None) -> Any:
        return json.loads(self(*args, "-o", "json", namespace=namespace))

    def apply(self, *objects: dict[str, Any], namespace: str | None = None) -> str:
        done = self.try_to_apply(*objects, namespace=namespace)
        assert done.returncode == 0, f"kubectl apply: {done.stderr}"
        return done.stdout

    def try_to_apply(
        self, *objects: dict[str, Any], namespace: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        # JSON: PyYAML would write the string 1e-3 bare, and Kubernetes reads that as a number.
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        return self.run("apply", "-f", "-", namespace=namespace, stdin=json.dumps(listed))


def wait_for(
    what: str, probe: Callable[[], Any], seconds: float = PATIENCE_SECONDS, every: float = 0.5
) -> Any:
    """The first truthy answer of ``probe``; fails with ``what`` and the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := probe():
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:.0f} s (last answer: {answer!r})")
        time.sleep(every)
