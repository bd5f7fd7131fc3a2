"""Nodes are lost under the real trainer: killed, cut off, and with a dead kubelet alone.

The volumes are folders of this host, so a node that is cut off goes on writing to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.host import processes_of
from e2e.jobs import Jobs, conditions, evict
from e2e.kubectl import Kubectl, wait_for
from e2e.place import chat_row, host_folder, node_of_operator, own_operator
from tiny_models import save_tiny_model

from local_cluster import LocalCluster, chaos

if TYPE_CHECKING:
    from e2e.fixtures import Images

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.faults,
    pytest.mark.long,
    pytest.mark.timeout(1200),
]

RELEASE = "cut-off"
WORK_SECONDS = 600.0
FOR_EVER = 100_000
ONE_CPU = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
DATA = {"train": [{"name": "rows", "uri": "pvc://work/rows.jsonl"}], "sequenceLength": 64}
RECOVERY = {"nodeLostAfterSeconds": 10, "backoffSeconds": {"initial": 1}}


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, images: Images, shared_operator_asleep: None) -> Iterator[str]:
    with own_operator(
        kubectl, RELEASE, "lost-trainers", images.operator, images.trainer,
        "trainer.env.FINETUNE_DEVICE=CPU",
    ) as namespace:  # fmt: skip
        yield namespace


@pytest.fixture(scope="module")
def files(cluster: LocalCluster, kubectl: Kubectl, place: str) -> Path:
    """The claim ``work`` on this host, with a tiny model and rows for it."""
    folder = host_folder(cluster, kubectl, place, "work")
    save_tiny_model(folder / "model")
    rows = [chat_row(f"What is node {n}?", "A machine. " * (1 + n % 4)) for n in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder


class Case:
    """One job whose node is lost."""

    def __init__(
        self, cluster: LocalCluster, kubectl: Kubectl, files: Path, namespace: str, name: str
    ) -> None:
        self.cluster, self.kubectl, self.name = cluster, kubectl, name
        self.jobs = Jobs(kubectl, namespace)
        self._files = files

    @property
    def attempts(self) -> Path:
        found = self.kubectl.json("get", "ftj", self.name, namespace=self.jobs.namespace)
        return self._files / self.jobs.namespace / found["metadata"]["uid"] / "attempts"

    def parent(self, attempt: int) -> tuple[int, int]:
        """Attempt and step that it went on from; pods are ready before they know that."""
        path = self.attempts / f"{attempt}/parent.json"
        wait_for(f"the parent of attempt {attempt}", path.exists, WORK_SECONDS)
        found = json.loads(path.read_text())
        return found["attempt"], found["step"]

    def curve(self, attempt: int) -> dict[int, float]:
        path = self.attempts / f"{attempt}/metrics.jsonl"
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    def trains_at(self, attempt: int, step: int) -> None:
        def reached() -> bool:
            return max(self.curve(attempt), default=0) >= step

        wait_for(f"attempt {attempt} at step {step}", reached, WORK_SECONDS, 0.2)

    def pods(self, attempt: int) -> list[dict[str, Any]]:
        gang = f"finetune.dev/job={self.name},finetune.dev/attempt={attempt}"
        labels = f"{gang},finetune.dev/stage=train"
        found = self.kubectl.json("get", "pods", "-l", labels, namespace=self.jobs.namespace)
        return list(found["items"])

    def restarted(self) -> dict[str, Any]:
        """The status once attempt 1 trains; what it says of the lost node is checked."""

        def trains() -> Any:
            status = self.jobs.status(self.name)
            if (status.get("attempt"), status.get("phase")) == (1, "Training"):
                return status
            return None

        status: dict[str, Any] = wait_for("attempt 1 trains", trains, WORK_SECONDS)
        return status

    def comes_back(self, node: str, lost: str) -> None:
        """The lost pod goes by itself, and the present gang does not notice."""
        attempt = self.jobs.status(self.name)["attempt"]
        before = {pod["metadata"]["uid"] for pod in self.pods(attempt)}
        chaos.heal(self.cluster, self.cluster.node(node))
        wait_for("the lost pod is gone", lambda: not names(self.pods(0)) & {lost}, 90)
        wait_for("so says the status", lambda: "lostNodes" not in self.jobs.status(self.name), 60)
        step = max(self.curve(attempt))
        self.trains_at(attempt, step + 5)
        assert {pod["metadata"]["uid"] for pod in self.pods(attempt)} == before
        assert self.jobs.status(self.name)["attempt"] == attempt


@pytest.fixture
def case(
    request: pytest.FixtureRequest, cluster: LocalCluster, kubectl: Kubectl, files: Path, place: str
) -> Iterator[Case]:
    case = Case(cluster, kubectl, files, place, request.param)
    yield case
    case.jobs.delete(case.name)
    for number in (1, 2, 3):
        node = cluster.node(f"n{number}")
        if node.paths.fault.exists():
            chaos.heal(cluster, node)


def names(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def assert_named(status: dict[str, Any], node: str, pod: str) -> None:
    (lost,) = status["lostNodes"]
    assert (lost["name"], lost["pods"]) == (node, [pod]) and lost["since"]
    (past,) = status["pastFailures"]
    assert (past["class"], past["node"], past["budget"]) == ("NodeLost", node, "Infrastructure")
    assert status["restarts"]["infrastructure"] == 1


@pytest.mark.parametrize("case", ["killed"], indirect=True)
def test_a_killed_node_costs_at_most_an_interval(case: Case, place: str) -> None:
    case.jobs.apply(
        case.name,
        steps=FOR_EVER,
        data=DATA,
        checkpoint={"everySteps": 10},
        recovery=RECOVERY,
        workers={"resources": ONE_CPU},
    )
    case.trains_at(0, 25)
    operator = node_of_operator(case.kubectl, place, RELEASE)
    victim = next(p for p in case.pods(0) if p["spec"]["nodeName"] != operator)
    node, pod = victim["spec"]["nodeName"], victim["metadata"]["name"]
    chaos.kill(case.cluster, case.cluster.node(node))
    status = case.restarted()
    assert_named(status, node, pod)
    assert {p["spec"]["nodeName"] for p in case.pods(1)}.isdisjoint({node})
    before, (attempt, began) = case.curve(0), case.parent(1)
    lost = max(before) - began
    print(f"died after step {max(before)}, went on from step {began} of attempt {attempt}")
    assert attempt == 0 and began % 10 == 0 and 0 <= lost <= 10
    case.trains_at(1, began + 10)
    again = {step: loss for step, loss in case.curve(1).items() if step in before}
    assert again == {step: before[step] for step in again}, "the same losses as before"
    case.comes_back(node, pod)


@pytest.mark.parametrize("case", ["cut-off"], indirect=True)
def test_a_gang_on_a_node_that_is_cut_off_saves_on_and_nobody_reads_it(
    case: Case, place: str
) -> None:
    operator = node_of_operator(case.kubectl, place, RELEASE)
    elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [operator]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]}
    case.jobs.apply(
        case.name,
        steps=FOR_EVER,
        data=DATA,
        training={"microBatchSize": 2, "globalBatchSize": 16},
        checkpoint={"everySteps": 2, "keep": 1},
        recovery=RECOVERY,
        workers={
            "count": 1,
            "ranksPerWorker": 2,
            "resources": ONE_CPU,
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        },
    )
    case.trains_at(0, 10)
    (victim,) = case.pods(0)
    node, pod, uid = (
        victim["spec"]["nodeName"], victim["metadata"]["name"], victim["metadata"]["uid"],
    )  # fmt: skip
    chaos.partition(case.cluster, case.cluster.node(node))
    cut = max(case.curve(0))
    told = wait_for(
        "it is told",
        lambda: case.jobs.status(case.name).get("pendingReason", ""),
        60,
    )
    assert told.startswith("a node does not answer, and what it ran may still run: pod " + pod)
    assert f"on node {node} (no word since" in told
    ranks = [p for p in processes_of({uid}) if b".rank" in p.command]
    assert len(ranks) == 2, "and it does"
    status = case.restarted()
    assert_named(status, node, pod)

    attempt, began = case.parent(1)
    assert attempt == 0 and began > cut, "the zombie had trained and saved on"
    wait_for(
        "the zombie gives way to its successor",
        lambda: not [p for p in processes_of({uid}) if b".rank" in p.command],
        60,
    )
    log = (case.attempts / "0/logs/rank-0.log").read_text()
    assert "attempt 1 has taken over" in log
    zombie = case.curve(0)
    print(f"cut off at step {cut}, successor from step {began}, zombie's last {max(zombie)}")
    case.trains_at(1, max(zombie) + 5)
    new = case.curve(1)
    assert min(new) == began + 1
    late = sorted(step for step in zombie if step > began)
    assert [new[step] for step in late] == [zombie[step] for step in late], "the same losses"

    # The chain leads past the zombie: the next attempt goes on from its successor.
    evict(case.kubectl, case.pods(1)[0])
    case.trains_at(2, max(zombie) + 6)
    assert case.parent(2)[0] == 1 and case.parent(2)[1] >= max(new)
    case.comes_back(node, pod)


@pytest.mark.parametrize("case", ["silent"], indirect=True)
def test_a_gang_trains_on_without_a_kubelet_until_kubernetes_evicts_it(
    case: Case, place: str
) -> None:
    case.jobs.apply(
        case.name,
        steps=FOR_EVER,
        data=DATA,
        recovery=RECOVERY,
        workers={"resources": ONE_CPU},
    )
    case.trains_at(0, 10)
    operator = node_of_operator(case.kubectl, place, RELEASE)
    victim = next(p for p in case.pods(0) if p["spec"]["nodeName"] != operator)
    node, pod = victim["spec"]["nodeName"], victim["metadata"]["name"]
    chaos.silence(case.cluster, case.cluster.node(node))

    def told() -> str:
        status = case.jobs.status(case.name)
        message: str = conditions(status)["Reconciling"]["message"]
        return message if "does not answer" in message else ""

    message = wait_for("it is told", told, 60)
    assert message.startswith("all ranks train, although a node does not answer: pod " + pod)
    trained = max(case.curve(0))
    status = case.restarted()
    assert_named(status, node, pod)
    before, (attempt, began) = case.curve(0), case.parent(1)
    print(f"told at step {trained}, evicted at step {max(before)}, went on from {began}")
    assert max(before) > trained, "nobody was ended for a kubelet's silence"
    assert (attempt, began) == (0, max(before)), "all ranks saved together: nothing is lost"
    assert {p["spec"]["nodeName"] for p in case.pods(1)}.isdisjoint({node})
    case.comes_back(node, pod)
