"""Files of tensors, as the library reads them; and a copy that stays as it was."""

from __future__ import annotations

import hashlib
import random
from io import FileIO
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer import manifest, tensor_file
from finetune_trainer.errors import BY_NAME, failure_class
from finetune_trainer.snapshot import Snapshot


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "b|0|step": torch.tensor(3.0),
        "a|0|master": torch.randn(7),
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "long": torch.arange(4),
        "not in one piece": torch.randn(4, 6).T,
        "ümlaut": torch.randn(1),
        "none": torch.empty(0),
    }


def written(path: Path) -> dict[str, object]:
    return tensor_file.write(path, tensor_file.parts(tensor_file.arranged(tensors())))


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    written(tmp_path / "a")
    found = load_file(tmp_path / "a")
    assert found.keys() == tensors().keys()
    for name, expected in tensors().items():
        assert found[name].shape == expected.shape and found[name].dtype == expected.dtype, name
        assert torch.equal(found[name], expected), name


def test_a_file_is_that_of_the_library_byte_for_byte(tmp_path: Path) -> None:
    plain = {name: tensor.contiguous() for name, tensor in tensors().items() if tensor.numel()}
    tensor_file.write(tmp_path / "ours", tensor_file.parts(tensor_file.arranged(plain)))
    save_file(plain, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_size_and_hash_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 100)
    monkeypatch.setattr(tensor_file, "SYNC_BYTES", 250)
    facts = written(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    assert facts == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert facts == manifest.fingerprint(tmp_path / "a")


@pytest.mark.parametrize("block", [4096, 8], ids=["blocks", "larger blocks than was thought"])
def test_a_large_file_goes_past_the_page_cache_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """A file system that refuses a block (here: it is none) gets the rest through its cache."""
    chunk, ways = 2 * block, []
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(tensor_file, "SYNC_BYTES", 2 * chunk)
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", block)
    write_all = tensor_file._write_all

    def seen(file: FileIO, data: memoryview) -> None:
        before = tensor_file._is_past_the_cache(file)
        write_all(file, data)
        ways.append((before, tensor_file._is_past_the_cache(file)))

    monkeypatch.setattr(tensor_file, "_write_all", seen)
    content = random.Random(0).randbytes(4 * chunk + 5)
    facts = tensor_file.write(tmp_path / "a", [memoryview(content[:3]), memoryview(content[3:])])
    assert (tmp_path / "a").read_bytes() == content
    assert facts == manifest.fingerprint(tmp_path / "a")
    with (tmp_path / "b").open("wb", buffering=0) as file:
        tensor_file._past_the_cache(file, True)
        if not tensor_file._is_past_the_cache(file):
            assert ways == [(False, False)] * 5
            pytest.skip(f"the file system of {tmp_path} has no way past its cache")
    assert [before for before, _ in ways[:3]] == [False, False, True]
    if block == 4096:
        assert ways[2:] == [(True, True), (True, True), (False, False)]


def test_a_full_disk_leaves_no_file_and_its_class(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        written(tmp_path / "a")
    assert failure_class(caught.value) is BY_NAME["DiskFull"]
    assert not list(tmp_path.iterdir())
    assert Path("/dev/full").exists()


def test_a_writer_that_is_told_to_stop_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 4)
    stop, told = Event(), []

    def content() -> object:
        yield memoryview(b"12345678")
        told.append((tmp_path / "a").stat().st_size)
        stop.set()
        yield memoryview(b"9")

    with pytest.raises(tensor_file.Stopped):
        tensor_file.write(tmp_path / "a", content(), stop)  # type: ignore[arg-type]
    assert told == [8]
    assert not list(tmp_path.iterdir())


def test_a_snapshot_writes_the_same_file_and_stays_as_it_was(tmp_path: Path) -> None:
    facts = written(tmp_path / "a")
    live = tensors()
    copied = Snapshot().take(live)
    for tensor in live.values():
        tensor.zero_()
    assert tensor_file.write(tmp_path / "b", copied) == facts


def test_the_memory_of_a_snapshot_is_used_again() -> None:
    snapshot, live = Snapshot(), tensors()
    first = snapshot.take(live)[1].obj.ctypes.data  # type: ignore[attr-defined]
    live["long"] += 1
    second = snapshot.take(live)[1]
    assert second.obj.ctypes.data == first  # type: ignore[attr-defined]
    assert bytes(second[:32]) == live["long"].numpy().tobytes()
    del live["long"]
    assert len(snapshot.take(live)[1]) == len(second) - 32


@pytest.mark.gpu
def test_a_snapshot_of_gpu_memory_is_pinned_and_complete(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    live = {name: tensor.cuda() for name, tensor in tensors().items()}
    snapshot = Snapshot()
    copied = snapshot.take(live)
    for tensor in live.values():
        tensor.zero_()
    assert tensor_file.write(tmp_path / "b", copied) == written(tmp_path / "a")
    assert snapshot.pinned
