"""A volume that is full: old checkpoints make room, and never the one that is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.trainer.train.gangs import run_gang
from unit.trainer.train.jobs import Job
from unit.trainer.train.saves import train_on_a_full_disk
from unit.trainer.train.tiny import row_lengths

from finetune_trainer import lineage, manifest
from finetune_trainer.checkpoint_folder import CheckpointFolder

MIB = 2**20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        options = f"size={size},huge=never"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", folder], check=True)
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], check=False)


def published(workspace: Path, attempt: int, step: int, size: int = MIB) -> Path:
    """A whole checkpoint of so many bytes."""
    folder = lineage.attempt_folder(workspace, attempt) / f"checkpoints/step-{step}"
    folder.mkdir(parents=True)
    (folder / "rank-0.safetensors").write_bytes(os.urandom(size))
    facts = manifest.fingerprint(folder / "rank-0.safetensors")
    manifest.write(folder, {"step": step, "files": {"rank-0.safetensors": facts}})
    return folder


def steps(workspace: Path, attempt: int = 0) -> list[int]:
    return sorted(step for step, _ in lineage.checkpoints_of(workspace, attempt))


@needs_root
def test_the_oldest_go_first_and_neither_the_newest_nor_the_best(
    disk: Callable[[int], Path],
) -> None:
    workspace = disk(6 * MIB)
    for step in (10, 20, 30, 40, 50):
        published(workspace, 0, step)
    folder = CheckpointFolder(workspace, 0, keep=9)
    assert folder.give_up_oldest(2 * MIB, {10}) == 20
    assert folder.give_up_oldest(3 * MIB, {10}) == 30
    assert folder.give_up_oldest(3 * MIB, {10}) == 40
    assert steps(workspace) == [10, 50]
    assert folder.give_up_oldest(MIB, {10}) is None, "the best and the newest one stay"
    assert steps(workspace) == [10, 50]
    manifest.verify(workspace / "attempts/0/checkpoints/step-50")


@needs_root
def test_nothing_goes_where_all_together_would_not_do(disk: Callable[[int], Path]) -> None:
    workspace = disk(6 * MIB)
    for step in (10, 20, 30):
        published(workspace, 0, step)
    assert CheckpointFolder(workspace, 0, keep=9).give_up_oldest(6 * MIB, ()) is None
    assert steps(workspace) == [10, 20, 30]


@needs_root
def test_the_parent_of_an_attempt_goes_with_both_its_names_and_only_once_it_is_not_the_newest(
    disk: Callable[[int], Path],
) -> None:
    workspace = disk(6 * MIB)
    for step in (10, 20, 30):
        published(workspace, 0, step)
    parent = lineage.newest_verified(workspace, 1)
    assert parent is not None and parent.step == 30
    lineage.keep(workspace, 1, parent.path)
    lineage.claim(workspace, 1, parent)
    folder = CheckpointFolder(workspace, 1, keep=9)
    assert [folder.give_up_oldest(5 * MIB // 2, ()) for _ in range(3)] == [10, 20, None]
    published(workspace, 1, 40)
    assert folder.give_up_oldest(3 * MIB, ()) == 30
    assert not lineage.parent_folder(workspace, 1).exists() and steps(workspace) == []
    newest = lineage.newest_verified(workspace, 2)
    assert newest is not None and newest.step == 40


def job(steps: int = 10, **checkpoint: Any) -> Job:
    return Job(
        lengths=row_lengths(1, 11),
        config={
            "zeroStage": 1,
            "method": {},
            "training": {"steps": steps, "accumulation": 2},
            "checkpoint": {"everySteps": 2, "keep": 9, **checkpoint},
        },
    )


@pytest.fixture(scope="module")
def size(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes of one checkpoint of the job."""
    large = tmp_path_factory.mktemp("large")
    (end, _) = run_gang(train_on_a_full_disk, 2, job(steps=3), large, True)
    return int(end["bytes"])


@pytest.mark.gang
@needs_root
@pytest.mark.parametrize(
    ("asynchronous", "foreseen"),
    [
        pytest.param(False, True, id="foreseen, training stands still"),
        pytest.param(True, False, id="met by a write beside the training"),
    ],
)
def test_training_goes_on_to_its_end_on_a_disk_for_three_checkpoints(
    disk: Callable[[int], Path], size: int, asynchronous: bool, foreseen: bool
) -> None:
    workspace = disk(7 * size // 2)
    wish = job(asynchronous=asynchronous)
    ends = run_gang(train_on_a_full_disk, 2, wish, workspace, foreseen)
    assert [end["step"] for end in ends] == [10, 10]
    left = steps(workspace)
    assert left == [4, 6, 8], "saved after 2, 4, 6 and 8 steps"
    assert ends[0]["published"] == left, "what is told is what is there"
    for step in left:
        manifest.verify(workspace / f"attempts/0/checkpoints/step-{step}")


@pytest.mark.gang
@needs_root
@pytest.mark.parametrize(
    ("wish", "foreseen", "checkpoints", "left"),
    [
        pytest.param({"onDiskFull": "Stop"}, True, 2.6, [2, 4], id="by policy"),
        pytest.param({}, False, 1.6, [2], id="the last one is never given up"),
    ],
)
def test_a_job_that_cannot_save_ends_with_what_it_has(
    disk: Callable[[int], Path],
    size: int,
    wish: dict[str, Any],
    foreseen: bool,
    checkpoints: float,
    left: list[int],
) -> None:
    workspace = disk(int(checkpoints * size))
    ends = run_gang(train_on_a_full_disk, 2, job(**wish), workspace, foreseen)
    assert [end["class"] for end in ends] == ["DiskFull"] * 2
    assert steps(workspace) == left
    newest = lineage.newest_verified(workspace, 1)
    assert newest is not None and newest.step == left[-1]


@pytest.mark.gang
@needs_root
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_job_that_asked_for_no_checkpoint_ends_well_where_there_is_no_room_for_one(
    disk: Callable[[int], Path], size: int, foreseen: bool
) -> None:
    workspace = disk(size * 6 // 10)
    wish = job(steps=4, everySteps=None, everySeconds=0)
    ends = run_gang(train_on_a_full_disk, 2, wish, workspace, foreseen)
    assert [end.get("step") for end in ends] == [4, 4]
    assert ends[0]["published"] == [] and steps(workspace) == []
