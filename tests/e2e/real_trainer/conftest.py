"""One operator of their own for all of them.

Nodes only advertise their GPUs, so the chart's ``trainer.env`` makes the ranks train on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.fixtures import Images, asleep
from e2e.gangs import RELEASE, ROWS
from e2e.jobs import Jobs
from e2e.kubectl import Kubectl
from e2e.place import chat_row, host_folder, own_operator
from tiny_models import save_tiny_model

from local_cluster import LocalCluster


@pytest.fixture(scope="package")
def place(kubectl: Kubectl, images: Images, operator: str) -> Iterator[str]:
    own = own_operator(
        kubectl, RELEASE, "real-trainer", images.operator, images.trainer,
        "trainer.env.FINETUNE_DEVICE=CPU",
    )  # fmt: skip
    with asleep(kubectl, operator), own as namespace:
        yield namespace


@pytest.fixture(scope="package")
def files(cluster: LocalCluster, kubectl: Kubectl, place: str) -> Path:
    """The claim ``work`` on this host, with a tiny model and rows for it."""
    folder = host_folder(cluster, kubectl, place, "work")
    save_tiny_model(folder / "model")
    rows = [chat_row(f"What is gang {n}?", "A set of pods. " * (1 + n % 4)) for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def jobs(kubectl: Kubectl, files: Path, place: str) -> Jobs:
    return Jobs(kubectl, place)


@pytest.fixture
def attempts(kubectl: Kubectl, files: Path, place: str) -> Any:
    """The folder of a job's attempts on this host."""

    def folder(name: str) -> Path:
        uid = kubectl.json("get", "ftj", name, namespace=place)["metadata"]["uid"]
        return files / place / uid / "attempts"

    return folder
