"""A first run that the disk cannot hold is refused before it begins; later ones are not asked."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from local_cluster.binaries import Binaries
from local_cluster.layout import Cache
from quickstart import room
from quickstart.errors import QuickstartError
from quickstart.targets import Local

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv("FINETUNE_CACHE", str(folder))
    return folder


def leave(monkeypatch: pytest.MonkeyPatch, gibibytes: float) -> list[Path]:
    """The disk has so much free; the folders whose disk is looked at."""
    asked: list[Path] = []

    def disk_usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(0, 0, int(gibibytes * 2**30))

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    return asked


def test_a_first_run_without_room_is_told_how_much_it_takes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 28.94)
    with pytest.raises(QuickstartError) as error:
        Local("unbuilt").look()
    assert str(error.value) == (
        f"A first run takes 35 GiB of disk and {tmp_path} has 28.9 GiB free: free some, or point "
        "HOME and FINETUNE_CACHE to a larger disk."
    )
    assert not cache.exists()


def test_a_first_run_with_room_begins(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = leave(monkeypatch, room.FIRST_RUN)
    Local("unbuilt").look()
    assert asked


@pytest.mark.parametrize("built", ["images", "programs"])
def test_who_has_built_before_is_not_asked(
    cache: Path, monkeypatch: pytest.MonkeyPatch, built: str
) -> None:
    if built == "images":
        (cache / "containers").mkdir(parents=True)
    else:
        programs = Binaries(Cache(cache))
        for tool in ("kubelet", "etcd", "containerd", "coredns"):
            programs.path(tool).parent.mkdir(parents=True)
        assert not programs.missing()
    leave(monkeypatch, 3)
    Local("unbuilt").look()
