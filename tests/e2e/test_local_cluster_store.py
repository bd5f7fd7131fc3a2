"""The registry's storage and the seed, with real programs and a cache of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.kubectl import wait_for

from local_cluster.binaries import Binaries
from local_cluster.debian import debian_binary
from local_cluster.layout import Cache
from local_cluster.oci import BUSYBOX, PAUSE_IMAGE, upload_image
from local_cluster.registry import (
    DOCKER_REGISTRY,
    answers,
    digest_of,
    prune,
    tags,
    temporary_registry,
)
from local_cluster.seed import clone_seed, refresh_seed, seeded_images

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
]

IMAGE = "localhost:5000/thing"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A fresh cache that borrows the programs of the user's."""
    shared = Cache.from_environment()
    for package in (DOCKER_REGISTRY, BUSYBOX):
        debian_binary(*package, shared)
    (tmp_path / "debian").symlink_to(shared.debian)
    (tmp_path / "bin").symlink_to(shared.binaries)
    return Cache(tmp_path)


def test_a_temporary_registry_does_not_outlive_a_kill_of_its_process(cache: Cache) -> None:
    serve = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from local_cluster.layout import Cache\n"
        "from local_cluster.registry import temporary_registry\n"
        "with temporary_registry(Cache(Path(sys.argv[1]))) as address:\n"
        "    print(address, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", serve, str(cache.registry.parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert answers(address)
        process.kill()
    wait_for("it is gone", lambda: not answers(address), 10)


def upload(cache: Cache, tag: str, content: bytes) -> str:
    with temporary_registry(cache) as address:
        return upload_image(address, f"{IMAGE}:{tag}", {"data/file": content})


def stored_blobs(cache: Cache) -> int:
    return len(list((cache.registry / "docker/registry/v2/blobs").rglob("data")))


def test_pruning_keeps_what_is_named_and_frees_the_rest(cache: Cache) -> None:
    kept = upload(cache, "new", b"new" * 1000)
    blobs = stored_blobs(cache)
    upload(cache, "old", b"old" * 1000)
    assert tags(cache) == ["thing:new", "thing:old"]
    assert stored_blobs(cache) > blobs

    assert prune(cache, {f"{IMAGE}:new"}) == ["thing:old"]
    assert tags(cache) == ["thing:new"]
    assert stored_blobs(cache) == blobs
    with temporary_registry(cache) as address:
        assert digest_of(address, f"{IMAGE}:new") == kept
        assert digest_of(address, f"{IMAGE}:old") is None


def test_the_seed_follows_the_images_and_clones_share_their_disk(cache: Cache) -> None:
    binaries = Binaries(cache)
    first = upload(cache, "1", b"first")
    assert refresh_seed(cache, binaries, [f"{IMAGE}:1"]) is True
    assert seeded_images(cache)[f"{IMAGE}:1"] == first
    assert refresh_seed(cache, binaries, [f"{IMAGE}:1"]) is False, "nothing changed"

    upload(cache, "2", b"second")
    assert refresh_seed(cache, binaries, [f"{IMAGE}:2"]) is True
    assert set(seeded_images(cache)) == {PAUSE_IMAGE, f"{IMAGE}:2"}
    files = [path.read_bytes() for path in (cache.seed / "root").rglob("data/file")]
    assert files == [b"second"], "what is no longer named is collected"

    clone = cache.root / "node" / "root"
    assert clone_seed(cache, clone) is True
    seeded = next((cache.seed / "root").rglob("data/file"))
    cloned = next(clone.rglob("data/file"))
    assert cloned.stat().st_ino == seeded.stat().st_ino, "a layer is one file"
    databases = list(clone.rglob("*.db"))
    assert len(databases) >= 2
    assert all(path.stat().st_nlink == 1 for path in databases), "a database is a node's own"
    assert clone_seed(cache, clone) is False, "a node's own root is never replaced"
