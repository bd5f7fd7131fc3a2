"""A save that is killed at each of its file operations in turn, by SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.engine import Engine
from finetune_trainer.gang import Gang
from finetune_trainer.partition import Partition, Piece
from finetune_trainer.rendezvous import Place

OPERATIONS = "open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"
NUMEL = 64


@dataclass
class State:
    """What an engine gives to a checkpoint and gets from it: weights and moments of one rank."""

    value: float
    stage: int = 2
    precision: str = "FP32"

    def __post_init__(self) -> None:
        self.master = torch.full((NUMEL,), self.value)
        self.moments = {"exp_avg": -self.master, "step": torch.tensor(self.value)}

    def partitions(self) -> list[Partition]:
        return [Partition(self.master, self.moments, (Piece("weight", 0, NUMEL, 0),))]

    def scaler_state(self) -> dict[str, float]:
        return {}

    def restore_scaler(self, state: dict[str, float]) -> None:
        assert state == {}

    def masters_changed(self) -> None:
        return None


def checkpoints(workspace: Path, attempt: int) -> Checkpoints:
    alone = SimpleNamespace(
        is_first=True, place=Place(0, 0, 1, "", 0), gather=lambda value: [value]
    )
    return Checkpoints(workspace, attempt, cast(Gang, alone), keep=1, identity={})


def save(workspace: Path, step: int) -> None:
    checkpoints(workspace, 0).save(cast(Engine, State(step)), step, {"seen": step})


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Do it in a child, which is killed before so many of its file operations are done."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [number]

    def count(event: str, _arguments: Any) -> None:
        if event in OPERATIONS:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    synced = os.fsync

    def sync(descriptor: int) -> None:
        count("open", ())
        synced(descriptor)

    try:
        os.fsync = sync
        sys.addaudithook(count)
        work()
    finally:
        os._exit(0)


def test_trap_20_a_save_that_is_killed_at_any_file_leaves_a_state_to_go_on_from(
    tmp_path: Path,
) -> None:
    before = tmp_path / "before"
    assert checkpoints(before, 0).choose_parent() is None
    save(before, 1)
    found = []
    for number in range(1000):
        workspace = shutil.copytree(before, tmp_path / str(number))
        over = not killed_at(number, partial(save, workspace, 2))
        going_on, state = checkpoints(workspace, 1), State(0)
        parent = going_on.choose_parent()
        assert parent is not None and not parent.damaged, number
        assert going_on.load(cast(Engine, state), parent) == {"seen": parent.step}
        for values in (state.master, -state.moments["exp_avg"], state.moments["step"]):
            assert values.eq(parent.step).all(), number
        found.append(parent.step)
        shutil.rmtree(workspace)
        if over:
            break
    assert found == sorted(found) and found[0] == 1 and found[-1] == 2
    assert found.count(1) >= 8 and found.count(2) >= 2, "killed before and after it appears"
