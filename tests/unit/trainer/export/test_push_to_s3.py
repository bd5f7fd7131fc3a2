"""Pushing a result to a bucket: to a real S3 server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, s3_server

from finetune_trainer import object_store
from finetune_trainer.config import Destination, JobRef
from finetune_trainer.errors import PublishFailed, PublishRefused
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.publishing import s3
from finetune_trainer.publishing.destinations import push_all

JOB = JobRef(namespace="team", name="bot", uid="u")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        (running.root / "models").mkdir()
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PAUSE", timedelta(milliseconds=1))


def result(folder: Path, **files: bytes) -> Path:
    """A sealed result with the form merged, by file name."""
    merged = folder / "merged"
    (merged / "original").mkdir(parents=True)
    (merged / "model.safetensors").write_bytes(bytes(range(256)) * 100_000)  # two parts
    (merged / "original/empty.txt").write_bytes(b"")
    for name, content in files.items():
        (merged / f"{name}.json").write_bytes(content)
    manifests.seal(merged, "sha256:input", {})
    return folder


def push(output: Path, place: dict[str, Any]) -> dict[str, str]:
    wish = Destination.model_validate(
        {"name": "b", "field": "spec.output.destinations[0]", "format": "Merged", "s3": place}
    )
    (pushed,) = push_all((wish,), output, JOB, {"merged": "sha256:aa"}, pause_seconds=0)
    return pushed


def held(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_bucket_holds_what_the_folder_holds(server: S3Server, tmp_path: Path) -> None:
    output = result(tmp_path / "output", config=b"{}")
    pushed = push(output, server.place("models", "team/bot"))
    assert pushed == {"name": "b", "uri": "s3://models/team/bot", "digest": "sha256:aa"}
    assert held(server.root / "models/team/bot") == held(output / "merged")


def test_pushing_the_same_again_moves_nothing(server: S3Server, tmp_path: Path) -> None:
    output = result(tmp_path / "output", config=b"{}")
    place = server.place("models", "again")
    push(output, place)
    written = {p: p.stat().st_mtime_ns for p in (server.root / "models/again").rglob("*.*")}
    push(output, place)
    assert {p: p.stat().st_mtime_ns for p in written} == written
    (server.root / "models/again/config.json").unlink()
    push(output, place)
    assert held(server.root / "models/again") == held(output / "merged")


def test_a_new_version_takes_along_what_the_old_one_brought_and_nothing_else(
    server: S3Server, tmp_path: Path
) -> None:
    place, there = server.place("models", "moving"), server.root / "models/moving"
    push(result(tmp_path / "old", config=b"{}", extra=b"1"), place)
    (there / "notes.txt").write_text("somebody's")
    new = result(tmp_path / "new", config=b'{"v": 2}')
    push(new, place)
    assert held(there) == {**held(new / "merged"), "notes.txt": b"somebody's"}


def test_a_push_that_breaks_off_leaves_no_result_and_is_repeated(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, there = server.place("models", "torn"), server.root / "models/torn"
    push(result(tmp_path / "old", config=b"{}", extra=b"1"), place)
    new = result(tmp_path / "new", config=b'{"v": 2}', more=b"2")
    with monkeypatch.context() as patched:
        real = s3._put

        def put(bucket: Any, key: str, path: Path, size: int) -> None:
            if path.name == "config.json":
                raise KeyboardInterrupt
            real(bucket, key, path, size)

        patched.setattr(s3, "_put", put)
        with pytest.raises(KeyboardInterrupt):
            push(new, place)
    marked = json.loads((there / "manifest.json").read_text())
    assert marked["unfinished"] is True
    names = {"config.json", "extra.json", "more.json", "model.safetensors", "original/empty.txt"}
    assert set(marked["files"]) == names
    push(new, place)
    assert held(there) == held(new / "merged")


def test_a_store_that_takes_nothing_refuses_and_one_that_is_away_may_come_back(
    server: S3Server, tmp_path: Path
) -> None:
    output = result(tmp_path / "output")
    with pytest.raises(PublishRefused) as refused:
        push(output, {**server.place("models", "x"), "loginPath": None})
    assert refused.value.message == (
        f"spec.output.destinations[0].s3 (b): access to s3://models at {server.endpoint} is denied "
        "(AccessDenied); the result lies on its claim, and was pushed nowhere yet"
    )
    with pytest.raises(PublishRefused, match="there is no bucket none"):
        push(output, server.place("none", "x"))
    with pytest.raises(PublishFailed, match=r"127.0.0.1:1 cannot be reached"):
        push(output, {**server.place("models", "x"), "endpoint": "http://127.0.0.1:1"})
