"""The quickstart as a user starts it, on the real cluster: a shortened job, the dev questions."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.fixtures import Images
from e2e.kubectl import Kubectl, wait_for
from e2e.prometheus import Prometheus

from local_cluster import LocalCluster
from quickstart import release

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAMESPACE = "quickstart"
CHOICES = ("CONTEXT", "REGISTRY", "REGISTRY_PLAIN_HTTP", "STORAGE_CLASS", "CLUSTER")
PATIENCE = 1200.0
"""Seconds that one run may take."""


def hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Run:
    """``python -m quickstart`` without a terminal; its output goes to a file.

    It asks the dev questions: tests run while data and settings are changed.
    """

    def __init__(self, output: Path, *arguments: str, **environment: str) -> None:
        self.output = output
        paths = {"PYTHONPATH": f"{ROOT / 'examples'}:{ROOT}", "COLUMNS": "120"}
        # Never a cluster of whoever runs the tests.
        own = {name: value for name, value in os.environ.items() if name not in CHOICES}
        with output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quickstart", "--short", "--questions", "dev", *arguments],
                cwd=ROOT,
                env=own | paths | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Whoever started the tests in the background made them deaf to Ctrl-C.
                preexec_fn=hear_interrupts,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def exit_code(self) -> int:
        return self._process.wait(PATIENCE)

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text):
            assert self._process.poll() is None, f"ended before {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {pattern!r}:\n{self.text}"
            time.sleep(0.5)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts quickstarts; those that still run at the end of the test are killed."""
    runs: list[Run] = []

    def one(*arguments: str, **environment: str) -> Run:
        runs.append(Run(tmp_path / f"run-{len(runs)}.log", *arguments, **environment))
        return runs[-1]

    yield one
    for run in runs:
        run.stop()


def job(kubectl: Kubectl, name: str) -> Any:
    return kubectl.json("get", "finetunejob", name, namespace=NAMESPACE)


def test_interrupted_and_started_again_it_ends_with_a_proved_model(
    start: Callable[..., Run], cluster: LocalCluster, kubectl: Kubectl, prometheus: Prometheus
) -> None:
    arguments = ("--cluster", cluster.name, "--name", "journey")
    first = start(*arguments)
    first.wait_for(r"Prepare: started")
    first.interrupt()
    assert first.exit_code() == 130, first.text
    uid = job(kubectl, "journey")["metadata"]["uid"]

    second = start(*arguments)
    second.wait_for(r"step \d+ of")
    running = 'finetune_train_loss{namespace="quickstart",finetunejob="journey"}'
    assert wait_for("the running job's loss", lambda: prometheus.query(running), 60)
    assert second.exit_code() == 0, second.text
    assert "goes on with the job of an earlier start" in second.text
    assert "✓ The model learned" in second.text

    done = job(kubectl, "journey")
    assert done["metadata"]["uid"] == uid
    conditions = {c["type"]: c["status"] for c in done["status"]["conditions"]}
    assert (conditions["Succeeded"], conditions["Failed"]) == ("True", "False")
    finished = 'finetune_job_loss{namespace="quickstart",finetunejob="journey"}'
    ((_, loss),) = wait_for("the finished job's loss", lambda: prometheus.query(finished), 60)
    assert loss == pytest.approx(float(done["status"]["metrics"]["loss"]))
    folder = re.search(r"on this host\s+(\S+)", second.text)
    assert folder is not None, second.text
    assert (Path(folder[1]) / "model.safetensors").stat().st_size > 200e6

    kubectl("delete", "finetunejob", "journey", "--wait", namespace=NAMESPACE)
    left = ("get", "jobs,pods,services", "-o", "name")
    gone = lambda: "journey-" not in kubectl(*left, namespace=NAMESPACE)  # noqa: E731
    wait_for("the deleted job's children to go", gone, 60)
    assert (Path(folder[1]) / "model.safetensors").stat().st_size > 200e6, "the model stays"


def test_with_shuffled_answers_the_same_proof_fails(
    start: Callable[..., Run], cluster: LocalCluster, kubectl: Kubectl
) -> None:
    run = start("--cluster", cluster.name, "--name", "control", "--data", "control")
    assert run.exit_code() == 1, run.text
    assert "✗ The model did not learn enough" in run.text
    assert job(kubectl, "control")["status"]["phase"] == "Succeeded"


@pytest.fixture
def foreign() -> Iterator[LocalCluster]:
    """A second cluster whose nodes know its registry by another name than ours do."""
    cluster = LocalCluster("finetune-foreign")
    try:
        cluster.up(nodes=1)
        for node in cluster.nodes():
            certificates = node.paths.root / "etc" / "certs.d"
            shutil.copytree(certificates / "localhost:5000", certificates / cluster.registry)
        yield cluster
    finally:
        cluster.down()


def test_an_existing_cluster_is_used_by_its_context_registry_and_storage_class(
    start: Callable[..., Run], foreign: LocalCluster, images: Images
) -> None:
    away = Kubectl.of(foreign)
    theirs = {
        "KUBECONFIG": str(foreign.kubeconfig),
        "CONTEXT": away("config", "current-context").strip(),
        "REGISTRY": f"{foreign.registry}/team",
        "REGISTRY_PLAIN_HTTP": "1",
        "STORAGE_CLASS": "shared",
    }
    for wrong, said in (
        ({"STORAGE_CLASS": "fast"}, "The cluster has no StorageClass fast"),
        ({"CONTEXT": "typo"}, "CONTEXT must name a context of your kubeconfig"),
    ):
        refused = start("--name", "away", **theirs | wrong)
        assert refused.exit_code() == 1
        assert said in refused.text
        assert "Images" not in refused.text, "nothing was built for it"

    run = start("--name", "away", **theirs)
    # Training there would show nothing that it does not show here.
    run.wait_for("Train: started")
    run.interrupt()
    assert run.exit_code() == 130, run.text

    found = away.json("get", "finetunejob", "away", namespace=NAMESPACE)
    assert found["spec"]["model"]["uri"].startswith(f"image://{foreign.registry}/team/")
    claim = away.json("get", "persistentvolumeclaim", "away-workspace", namespace=NAMESPACE)
    assert claim["spec"]["storageClassName"] == "shared"
    pods = "{.items[*].spec.containers[*].image} {.items[*].spec.volumes[*].image.reference}"
    images_there = away("get", "pods", "-A", "-o", f"jsonpath={pods}").split()
    assert len(images_there) >= 4
    assert {image for image in images_there if not image.startswith(foreign.registry)} == set()

    killed_in_an_upgrade(foreign)
    second = start("--name", "away", **theirs)
    second.wait_for("Submit: ")
    second.interrupt()
    assert second.exit_code() == 130, second.text

    away("label", "secrets", "-l", "owner=helm", f"{release.MARK}-", namespace="finetune-system")
    refused = start("--name", "away", **theirs)
    assert refused.exit_code() == 1
    assert "that the quickstart did not install and would replace" in refused.text


def killed_in_an_upgrade(cluster: LocalCluster) -> None:
    """Leave the operator's release as a helm does that ends without a word."""
    helm = [cluster.binaries.path("helm"), "--kubeconfig", cluster.kubeconfig,
            "--namespace", release.SYSTEM_NAMESPACE]  # fmt: skip
    upgrade = subprocess.Popen(
        [*helm, "upgrade", release.RELEASE, release.CHART, "--reuse-values", "--wait",
         "--set", "image.tag=none"]
    )  # fmt: skip
    status = [*helm, "status", release.RELEASE]
    wait_for(
        "an upgrade under way",
        lambda: "pending-upgrade" in subprocess.run(status, capture_output=True, text=True).stdout,
        60,
    )
    upgrade.kill()
    upgrade.wait()
