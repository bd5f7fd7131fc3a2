"""Waiting for nodes whose kubelets are processes that we can end."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.nodes import Node, is_of_kubelet
from local_cluster.processes import ProcessTable
from local_cluster.readiness import KUBELET_RESTARTS, await_ready


class Machine:
    """A node whose first `lost` kubelets end soon; the next one lives, and is Ready."""

    name, kubelet = "n1", "kubelet-n1"

    def __init__(self, processes: ProcessTable, lost: int) -> None:
        self.processes = processes
        self.lost = lost
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        seconds = 0.2 if self.starts <= self.lost else 60
        self.processes.start(self.kubelet, ["sleep", str(seconds)])

    def ready(self) -> bool:
        return self.starts > self.lost


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessTable]:
    table = ProcessTable(tmp_path / "run", tmp_path / "log")
    yield table
    table.stop(*table.names(), grace=0)


def waited(processes: ProcessTable, lost: int) -> Machine:
    machine = Machine(processes, lost)
    machine.start()
    await_ready([cast("Node", machine)], processes, seconds=20)
    return machine


def test_a_kubelet_that_ends_is_started_again(processes: ProcessTable) -> None:
    assert waited(processes, KUBELET_RESTARTS).starts == KUBELET_RESTARTS + 1
    assert processes.identity("kubelet-n1") is not None


def test_one_that_ends_each_time_is_an_error_with_its_last_words(processes: ProcessTable) -> None:
    with pytest.raises(LocalClusterError, match="kubelet-n1 ended at once; see "):
        waited(processes, KUBELET_RESTARTS + 1)


def test_a_node_that_does_not_become_ready_is_named(processes: ProcessTable) -> None:
    machine = Machine(processes, lost=0)
    processes.start(machine.kubelet, ["sleep", "60"])
    with pytest.raises(LocalClusterError, match=r"Node n1 is not Ready after 0 s: see .*n1\.log\."):
        await_ready([cast("Node", machine)], processes, seconds=0.3)


@pytest.mark.parametrize(
    ("report", "earlier", "told"),
    [
        ("2026-11-27T04:34:55Z", "", True),  # in the second of its start
        ("2026-11-27T04:34:56Z", "2026-11-27T04:34:20Z", True),
        ("2026-11-27T04:34:54Z", "", False),
        (
            "2026-11-27T04:34:55Z",
            "2026-11-27T04:34:55Z",
            False,
        ),  # perhaps of the one before
        ("", "", False),
    ],
)
def test_a_report_is_of_the_present_kubelet_or_of_an_earlier_one(
    report: str, earlier: str, told: bool
) -> None:
    started = datetime.datetime.fromisoformat("2026-11-27T04:34:55.400Z").timestamp()
    assert is_of_kubelet(started, report, earlier) is told
