"""A machine without a compiler, or with one that must not be asked: nothing is built at a start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from traps.ranks import without_compilers
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job

pytestmark = pytest.mark.gang

TOOLS = ("c++", "cc", "clang", "g++", "gcc", "hipcc", "ninja", "nvcc")


@pytest.mark.parametrize(
    ("stage", "offload"),
    [
        pytest.param(0, {}, id="zero0"),
        pytest.param(2, {"optimizer": "CPU"}, id="zero2-offload"),
        pytest.param(3, {"optimizer": "CPU"}, id="zero3-offload"),
    ],
)
def test_trap_34_a_start_asks_no_compiler_and_an_offloaded_step_needs_no_operator(
    tmp_path: Path, stage: int, offload: dict[str, Any]
) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "tools").mkdir()
    for name in TOOLS:
        tool = tmp_path / "tools" / name
        tool.write_text(f'#!/bin/sh\necho "$0 $@" >> {asked}\nexit 1\n')
        tool.chmod(0o755)
    job = Job([[9], [3, 4]], config={"zeroStage": stage, "offload": offload, "method": {}})
    (told,) = run_gang(without_compilers, 1, job, tmp_path / "tools")
    assert told["applied"]
    assert not asked.exists(), asked.read_text()
