"""Which checkpoint an attempt starts from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from finetune_trainer import lineage, manifest
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.checkpoint_folder import CheckpointFolder
from finetune_trainer.errors import NoValidCheckpoint, Preempted, failure_class
from finetune_trainer.gang import Gang
from finetune_trainer.lineage import newest_verified


def publish(workspace: Path, attempt: int, step: int, content: bytes = b"weights") -> Path:
    folder = lineage.attempt_folder(workspace, attempt) / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "rank-0.safetensors").write_bytes(content)
    facts = manifest.fingerprint(folder / "rank-0.safetensors")
    manifest.write(folder, {"step": step, "files": {"rank-0.safetensors": facts}})
    return folder


def start(workspace: Path, attempt: int) -> tuple[int, int] | None:
    parent = newest_verified(workspace, attempt)
    lineage.claim(workspace, attempt, parent)
    return (parent.attempt, parent.step) if parent else None


def test_the_first_attempt_starts_from_nothing_and_says_so(tmp_path: Path) -> None:
    assert start(tmp_path, 0) is None
    assert json.loads((tmp_path / "attempts/0/parent.json").read_text()) == {"attempt": None}


def test_an_attempt_starts_from_the_newest_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 9)
    newest = publish(tmp_path, 0, 10)
    assert start(tmp_path, 1) == (0, 10)
    assert json.loads((tmp_path / "attempts/1/parent.json").read_text()) == {
        "attempt": 0,
        "step": 10,
        "manifest": manifest.fingerprint(newest / "manifest.json")["sha256"],
    }


def test_an_attempt_without_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 10)
    start(tmp_path, 1)
    assert start(tmp_path, 2) == (0, 10)
    assert start(tmp_path, 5) == (0, 10), "attempts 3 and 4 ended before they claimed a parent"


def test_what_a_zombie_saves_after_its_successor_went_on_is_never_read(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 10)
    start(tmp_path, 1)
    publish(tmp_path, 0, 20)  # attempt 0 was believed dead
    assert start(tmp_path, 2) == (0, 10)
    publish(tmp_path, 2, 12)
    publish(tmp_path, 1, 30)  # and so was attempt 1, which nobody built on
    assert start(tmp_path, 3) == (2, 12)


def begin(workspace: Path, attempt: int) -> lineage.Parent | None:
    """As the trainer does: keep the parent, then claim it."""
    parent = newest_verified(
        workspace, attempt, hold=lambda found: lineage.keep(workspace, attempt, found.path)
    )
    lineage.claim(workspace, attempt, parent)
    return parent


def test_an_attempt_keeps_what_it_went_on_from_whatever_a_zombie_removes(tmp_path: Path) -> None:
    begin(tmp_path, 0)
    first = publish(tmp_path, 0, 10)
    size = (first / "rank-0.safetensors").stat()
    kept = begin(tmp_path, 1)
    assert kept is not None and kept.path == tmp_path / "attempts/1/parent"
    assert (kept.path / "rank-0.safetensors").stat().st_ino == size.st_ino, "it takes no space"
    shutil.rmtree(first)
    publish(tmp_path, 0, 20)
    again = begin(tmp_path, 2)
    assert again is not None and (again.attempt, again.step) == (0, 10)
    assert manifest.verify(again.path) == kept.digest
    publish(tmp_path, 2, 12)
    shutil.rmtree(kept.path)
    third = newest_verified(tmp_path, 3)
    assert third is not None and (third.attempt, third.step) == (2, 12)


def test_another_checkpoint_in_the_parents_place_is_not_believed(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)
    before = publish(tmp_path, 0, 10)
    start(tmp_path, 1)
    shutil.rmtree(before)
    publish(tmp_path, 0, 10, b"others")
    assert start(tmp_path, 2) == (0, 5)


def test_a_parent_that_goes_while_it_is_kept_is_told(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)
    parent = newest_verified(tmp_path, 1)
    assert parent is not None
    (parent.path / "rank-0.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        lineage.keep(tmp_path, 1, parent.path)
    assert not lineage.parent_folder(tmp_path, 1).exists()


def checkpoints(workspace: Path, attempt: int) -> Checkpoints:
    alone = SimpleNamespace(is_first=True, gather=lambda value: [value])
    return Checkpoints(workspace, attempt, cast(Gang, alone), keep=1, identity={})


def test_a_zombie_that_saves_faster_than_its_checkpoints_are_read_leaves_one_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps one checkpoint, and removes that one whenever somebody has begun to read it."""
    start(tmp_path, 0)
    publish(tmp_path, 0, 10)
    verify, saved = manifest.verify, [10]

    def slowly(folder: Path) -> str:
        before = tmp_path / f"attempts/0/checkpoints/step-{saved[-1]}"
        saved.append(saved[-1] + 2)
        publish(tmp_path, 0, saved[-1])
        shutil.rmtree(before)
        assert len(saved) < 9, "for ever too slow"
        return verify(folder)

    monkeypatch.setattr(manifest, "verify", slowly)
    parent = checkpoints(tmp_path, 1).choose_parent()
    assert parent is not None and (parent.attempt, parent.step) == (0, 10)
    assert verify(parent.path) == parent.digest


def test_a_checkpoint_that_goes_before_it_can_be_kept_is_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path, 0)
    old, link = publish(tmp_path, 0, 10), os.link

    def too_late(source: Path, target: Path) -> None:
        if old.exists():
            publish(tmp_path, 0, 12)
            shutil.rmtree(old)
        link(source, target)

    monkeypatch.setattr(os, "link", too_late)
    parent = checkpoints(tmp_path, 1).choose_parent()
    assert parent is not None and (parent.attempt, parent.step) == (0, 12)


def test_an_attempt_clears_away_half_written_checkpoints_but_not_those_of_a_later_one(
    tmp_path: Path,
) -> None:
    """A gang that was believed dead before it had begun wakes up late."""
    half = [tmp_path / f"attempts/{attempt}/checkpoints/step-4.tmp" for attempt in (0, 1, 2)]
    for folder in half:
        folder.mkdir(parents=True)
    CheckpointFolder(tmp_path, 1, keep=1).prepare()
    assert [folder.exists() for folder in half] == [False, False, True]


def test_a_manifest_that_names_files_elsewhere_is_not_followed(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)
    wrong = publish(tmp_path, 0, 6)
    facts = manifest.fingerprint(wrong / "rank-0.safetensors")
    files = {"../step-5/rank-0.safetensors": facts}
    manifest.write(wrong, {"step": 6, "files": files})
    assert start(tmp_path, 1) == (0, 5)
    with pytest.raises(manifest.CorruptCheckpointError, match="no file of its folder"):
        lineage.keep(tmp_path, 1, wrong)


def test_an_attempt_learns_that_a_later_one_has_begun(tmp_path: Path) -> None:
    start(tmp_path, 0)
    assert lineage.successor(tmp_path, 0) is None
    lineage.attempt_folder(tmp_path, 1).mkdir()  # placed, and nothing claimed yet
    assert lineage.successor(tmp_path, 0) is None
    start(tmp_path, 2)
    assert (lineage.successor(tmp_path, 0), lineage.successor(tmp_path, 2)) == (2, None)


@pytest.mark.parametrize(
    "fault", ["truncated", "flipped", "file missing", "no manifest", "no json"]
)
def test_trap_20_a_torn_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, fault: str
) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)
    torn = publish(tmp_path, 0, 6)
    shard = torn / "rank-0.safetensors"
    match fault:
        case "truncated":
            shard.write_bytes(b"weig")
        case "flipped":
            shard.write_bytes(b"weightz")
        case "file missing":
            shard.unlink()
        case "no manifest":
            (torn / "manifest.json").unlink()
        case "no json":
            (torn / "manifest.json").write_text("{")
    parent = newest_verified(tmp_path, 1)
    assert parent is not None and (parent.attempt, parent.step) == (0, 5)
    assert len(parent.damaged) == 1 and parent.damaged[0].startswith("step 6 of attempt 0: ")


def test_when_none_is_whole_the_user_decides(tmp_path: Path) -> None:
    start(tmp_path, 0)
    (publish(tmp_path, 0, 5) / "rank-0.safetensors").unlink()
    with pytest.raises(
        NoValidCheckpoint, match=r"step 5 of attempt 0: rank-0.safetensors is missing"
    ):
        newest_verified(tmp_path, 1)


def test_unpublished_folders_do_not_count(tmp_path: Path) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5).rename(tmp_path / "attempts/0/checkpoints/step-5.tmp")
    assert newest_verified(tmp_path, 1) is None


def test_the_parent_is_written_once(tmp_path: Path) -> None:
    start(tmp_path, 0)
    with pytest.raises(FileExistsError):
        lineage.claim(tmp_path, 0, None)
    assert not list((tmp_path / "attempts/0").glob("*.tmp"))


def trusted(workspace: Path, attempt: int, *suspect: tuple[int, int]) -> tuple[int, int] | None:
    parent = newest_verified(workspace, attempt, suspect)
    return (parent.attempt, parent.step) if parent else None


def test_going_back_takes_the_newest_checkpoint_before_the_steps_that_are_passed_over(
    tmp_path: Path,
) -> None:
    start(tmp_path, 0)
    for step in (4, 8, 12):
        publish(tmp_path, 0, step)
    assert trusted(tmp_path, 1, (0, 9)) == (0, 8), "saved before step 9 was done"
    assert trusted(tmp_path, 1, (0, 8)) == (0, 4)
    assert trusted(tmp_path, 1, (0, 2)) == (0, 4), "all are suspect: the oldest"
    (tmp_path / "attempts/0/checkpoints/step-4/rank-0.safetensors").write_bytes(b"torn")
    assert trusted(tmp_path, 1, (0, 8)) == (0, 8), "the trusted one is torn"


def test_what_a_later_attempt_saved_behind_those_steps_is_trusted(tmp_path: Path) -> None:
    start(tmp_path, 0)
    for step in (4, 8):
        publish(tmp_path, 0, step)
    parent = newest_verified(tmp_path, 1, [(0, 5)])
    assert parent is not None and parent.step == 4
    lineage.claim(tmp_path, 1, parent)
    assert trusted(tmp_path, 2, (0, 5)) == (0, 4), "what lies beyond the parent is no history"
    publish(tmp_path, 1, 8)
    assert trusted(tmp_path, 2, (0, 5)) == (1, 8)
    assert trusted(tmp_path, 2, (0, 5), (1, 7)) == (0, 4), "until that one is suspect too"


def folders(workspace: Path) -> set[str]:
    found = [*workspace.glob("attempts/*/checkpoints/step-*"), *workspace.glob("attempts/*/parent")]
    return {str(path.relative_to(workspace / "attempts")) for path in found}


def prepared(workspace: Path, attempt: int) -> None:
    folder = CheckpointFolder(workspace, attempt, keep=2)
    folder.prepare()
    folder.tidy()


def test_what_nobody_can_go_on_from_takes_no_space(tmp_path: Path) -> None:
    """An attempt that ended before its first save, a damaged checkpoint, a zombie's late one."""
    begin(tmp_path, 0)
    publish(tmp_path, 0, 5)
    publish(tmp_path, 0, 10)
    (publish(tmp_path, 0, 15) / "rank-0.safetensors").write_bytes(b"torn")
    begin(tmp_path, 1)  # goes on from step 10, and saves nothing
    prepared(tmp_path, 1)
    assert folders(tmp_path) == {"0/checkpoints/step-5", "0/checkpoints/step-10", "1/parent"}
    begin(tmp_path, 2)
    publish(tmp_path, 0, 20)
    prepared(tmp_path, 2)
    assert folders(tmp_path) == {"0/checkpoints/step-5", "0/checkpoints/step-10", "2/parent"}
    publish(tmp_path, 2, 12)
    begin(tmp_path, 3)
    prepared(tmp_path, 3)
    chain = {"0/checkpoints/step-5", "0/checkpoints/step-10", "2/parent", "2/checkpoints/step-12"}
    assert folders(tmp_path) == chain | {"3/parent"}
    assert not [*tmp_path.glob("attempts/**/.trash-*")]
    assert start(tmp_path, 4) == (2, 12)


def test_an_attempt_that_went_back_removes_what_it_left_behind(tmp_path: Path) -> None:
    begin(tmp_path, 0)
    publish(tmp_path, 0, 5)
    publish(tmp_path, 0, 10)
    lineage.claim(tmp_path, 1, newest_verified(tmp_path, 1, suspect=[(0, 8)]))
    prepared(tmp_path, 1)
    assert folders(tmp_path) == {"0/checkpoints/step-5"}


@pytest.fixture
def bad_block(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that the volume does not give out."""
    files: list[Path] = []
    fingerprint = manifest.fingerprint

    def read(path: Path) -> dict[str, object]:
        if path in files:
            raise OSError(errno.EIO, "Input/output error")
        return fingerprint(path)

    monkeypatch.setattr(manifest, "fingerprint", read)
    return files


def test_a_checkpoint_on_a_bad_block_is_skipped(tmp_path: Path, bad_block: list[Path]) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)
    bad_block.append(publish(tmp_path, 0, 10) / "rank-0.safetensors")
    parent = newest_verified(tmp_path, 1)
    assert parent is not None and parent.step == 5
    assert parent.damaged == (
        "step 10 of attempt 0: rank-0.safetensors cannot be read: [Errno 5] Input/output error",
    )


def test_a_volume_that_gives_nothing_out_is_a_fault_of_the_volume(
    tmp_path: Path, bad_block: list[Path]
) -> None:
    """And not the end of the job: on another node it may be read."""
    start(tmp_path, 0)
    (publish(tmp_path, 0, 5) / "rank-0.safetensors").write_bytes(b"torn")
    bad_block.append(publish(tmp_path, 0, 10) / "rank-0.safetensors")
    with pytest.raises(OSError, match="Input/output error") as caught:
        newest_verified(tmp_path, 1)
    assert failure_class(caught.value).name == "HardwareFault"


def test_a_manifest_that_the_volume_does_not_give_out_is_a_fault_of_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)

    def read(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(OSError, match="Input/output error"):
        newest_verified(tmp_path, 1)


@pytest.mark.parametrize("facts", [{}, [], {"sha256": "00"}, {"size": "large"}])
def test_a_manifest_without_sizes_is_no_checkpoint(tmp_path: Path, facts: object) -> None:
    start(tmp_path, 0)
    publish(tmp_path, 0, 5)
    broken = publish(tmp_path, 0, 10)
    manifest.write(broken, {"step": 10, "files": {"rank-0.safetensors": facts}})
    assert start(tmp_path, 1) == (0, 5)


def test_a_second_gang_of_one_attempt_leaves(tmp_path: Path) -> None:
    """A queue took its Job back and admitted it again."""
    assert checkpoints(tmp_path, 0).choose_parent() is None
    with pytest.raises(Preempted, match="an earlier gang of attempt 0 has been here"):
        checkpoints(tmp_path, 0).choose_parent()
