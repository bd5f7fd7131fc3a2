"""One ground for each row; the operator of the chart sleeps meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.contract_trainer import upload_contract_trainer
from e2e.kubectl import Kubectl
from faults.ground import Ground
from faults.matrix import Row

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.fixtures import Images


@pytest.fixture(scope="session")
def build(images: Images) -> str:
    """What is tested: both images, by their content, and the matrix itself."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return f"{images.operator} {images.trainer} {digest.hexdigest()[:12]}"


@pytest.fixture(scope="module")
def contract_trainer(cluster: LocalCluster) -> str:
    return upload_contract_trainer(cluster.registry)


@pytest.fixture
def ground_of(
    cluster: LocalCluster,
    kubectl: Kubectl,
    images: Images,
    contract_trainer: str,
    shared_operator_asleep: None,
    pytestconfig: pytest.Config,
    tmp_path: Path,
) -> Iterator[Callable[[Row], Ground]]:
    """Makes the ground of a row; its namespaces are gone afterwards."""
    grounds: list[Ground] = []

    def made(row: Row) -> Ground:
        whole = pytestconfig.getoption("--whole")
        ground = Ground(cluster, kubectl, images, contract_trainer, whole, row.name, tmp_path)
        grounds.append(ground)
        return ground

    yield made
    for ground in grounds:
        ground.leave()
