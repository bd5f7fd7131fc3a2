"""Every architecture goes the whole way, and its samples stay apart in packed rows."""

from __future__ import annotations

from typing import Any

import pytest
from architectures.cells import ARCHITECTURES, CELLS, GGUF, STEPS, run_cells
from unit.trainer.train.gangs import run_gang

pytestmark = pytest.mark.gang

NAMES = [f"{name}-{method}" for name, method in CELLS]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results: list[dict[str, Any]] = run_gang(
        run_cells, 1, tmp_path_factory.mktemp("matrix"), timeout=500
    )
    return results[0]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_what_is_published_is_what_was_trained(
    told: dict[str, Any], name: str
) -> None:
    cell = told[name]
    assert cell["error"] is None
    assert cell["packed"], "the self-test proved isolation on rows that hold several samples"
    assert len(cell["losses"]) == STEPS
    assert cell["losses"][-1] < cell["losses"][0]
    assert cell["moved"] > 1e-2, "training changed the model"
    assert all(difference < 1e-4 for difference in cell["differences"].values())
    forms = {"merged"} | ({"adapter"} if name.endswith("lora") else set())
    forms |= {"gguf"} if name.split("-")[0] in GGUF else set()
    assert set(cell["differences"]) == forms


def test_each_is_of_its_own_kind(told: dict[str, Any]) -> None:
    kinds = {told[f"{name}-lora"].get("architecture") for name in ARCHITECTURES}
    assert len(kinds) == len(ARCHITECTURES)
