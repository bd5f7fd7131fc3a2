"""QLoRA on a GPU: BF16 jobs beside 4-bit weights, and plain LoRA on the same numbers.

Without this repository's environment, with the repository's root as working directory:

    PYTHONPATH=operator:trainer_image:.:tests python -m pytest -c /dev/null --noconftest tests/gpu
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false"
    ),
]
STAGES = (0, 1, 2)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("quantized")
    done = subprocess.run(
        [sys.executable, "-m", "gpu.quantized_jobs", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    return found


def test_weights_in_memory_are_those_of_the_plan(told: dict[str, Any]) -> None:
    loaded = told["loaded"]
    assert loaded["layers"] == 8 * 7
    assert loaded["planned"] == loaded["real"]
    # The allocator rounds each tensor up to 512 bytes.
    assert loaded["real"] <= loaded["held"] <= 1.02 * loaded["real"]


def test_a_model_never_lies_whole_on_the_gpu(told: dict[str, Any]) -> None:
    assert told["loaded"]["loadingPeak"] < 0.6 * told["loaded"]["wholeBytes"]


def test_values_are_those_of_the_paper(told: dict[str, Any]) -> None:
    """Rounded to BF16; products besides, which kernels for few tokens make in another way."""
    assert told["loaded"]["unpackedOff"] <= 2**-8
    assert max(told["loaded"]["withoutGradientOff"]) < 0.01


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_and_every_adapter_learns(told: dict[str, Any], stage: int) -> None:
    job = told[f"NF4 {stage}"]
    assert len(job["losses"]) == 20
    assert job["losses"][-1] < 0.9 * job["losses"][0]
    assert job["moved"] == job["adapters"] == 8 * 7


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_those_of_plain_lora_on_the_unpacked_weights(
    told: dict[str, Any], stage: int
) -> None:
    found, expected = told[f"NF4 {stage}"]["losses"], told[f"unpacked {stage}"]["losses"]
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert found == pytest.approx(expected, rel=3e-2)


@pytest.mark.parametrize("stage", STAGES)
def test_it_takes_less_memory_than_plain_lora(told: dict[str, Any], stage: int) -> None:
    """By what the weights are smaller; a layer at a time is unpacked."""
    packed, plain = told[f"NF4 {stage}"], told[f"unpacked {stage}"]
    saved = told["loaded"]["saved"]
    assert packed["held"] <= plain["held"] - 0.9 * saved
    assert packed["peak"] <= plain["peak"] - 0.8 * saved
