"""The seed: a containerd root with the heavy images already unpacked, cloned for every node.

Cloning makes hard links, since layers and blobs never change: no disk, a second or two. Only the
two databases are copied. What the seed lacks, nodes pull.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from local_cluster.api import wait_for
from local_cluster.binaries import Binaries
from local_cluster.errors import LocalClusterError
from local_cluster.layout import Cache, locked, private_dir, write_private
from local_cluster.oci import PAUSE_IMAGE, ensure_base_images
from local_cluster.processes import ProcessTable, bound_to_us
from local_cluster.registry import (
    IMAGE_HOST,
    digest_of,
    repository_and_tag,
    temporary_registry,
)

_DATABASES = (
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)


def seeded_images(cache: Cache) -> dict[str, str]:
    """Images in the seed with their manifest digests; empty where there is no whole seed."""
    try:
        content = json.loads((cache.seed / "images.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): str(digest) for name, digest in content.items()}


def refresh_seed(
    cache: Cache,
    binaries: Binaries,
    images: Sequence[str],
    report: Callable[[str], None] = lambda _detail: None,
) -> bool:
    """Bring the seed to exactly `images` (and the pause image); True when it had to change.

    The images must be in the registry's storage. What is no longer named is collected by
    containerd itself, so the seed never grows beyond what is asked for.
    """
    names = [PAUSE_IMAGE] + [f"{IMAGE_HOST}/{':'.join(repository_and_tag(i))}" for i in images]
    with locked(cache.lock("seed")), temporary_registry(cache) as address:
        ensure_base_images(cache, address)
        wanted: dict[str, str] = {}
        for name in names:
            digest = digest_of(address, name)
            if digest is None:
                raise LocalClusterError(f"The registry has no image {name}: `push` it first.")
            wanted[name] = digest
        if seeded_images(cache) == wanted:
            return False
        _change(cache, binaries, wanted, address, report)
    return True


def clone_seed(cache: Cache, target: Path) -> bool:
    """Make `target` a containerd root with the seed's images; False where it cannot be done.

    Hard links do not cross file systems: there the node pulls its images instead.
    """
    with locked(cache.lock("seed"), shared=True):
        if not seeded_images(cache) or target.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        if cache.seed.stat().st_dev != target.parent.stat().st_dev:
            return False
        temporary = target.with_name(f"{target.name}.cloning")
        shutil.rmtree(temporary, ignore_errors=True)
        subprocess.run(["cp", "-al", cache.seed / "root", temporary], check=True)
        for database in _DATABASES:
            link = temporary / database
            copy = link.with_suffix(".copy")
            shutil.copy2(link, copy)
            copy.replace(link)
        temporary.rename(target)
        return True


def _change(
    cache: Cache,
    binaries: Binaries,
    wanted: dict[str, str],
    address: str,
    report: Callable[[str], None],
) -> None:
    private_dir(cache.seed)
    record = cache.seed / "images.json"
    present = seeded_images(cache)
    if not present:  # interrupted half-way, or the first time
        shutil.rmtree(cache.seed / "root", ignore_errors=True)
    record.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ftc-seed-") as folder:
        work = Path(folder)
        hosts = work / "certs.d" / IMAGE_HOST
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "http://{address}"\n')
        socket = work / "containerd.sock"
        config = work / "containerd.toml"
        config.write_text(
            f'version = 3\nroot = "{cache.seed / "root"}"\nstate = "{work / "state"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]\n'
            f'[grpc]\n  address = "{socket}"\n'
        )
        containerd = binaries.path("containerd")
        ctr = [str(binaries.path("ctr")), "--address", str(socket), "-n", "k8s.io"]
        processes = ProcessTable(work, work)
        processes.start("containerd", bound_to_us(containerd, "--config", config))
        try:
            wait_for(
                "containerd does not answer",
                lambda: (
                    subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode
                    == 0
                ),
                30,
                f"see {processes.log('containerd')}.",
            )
            for name, digest in wanted.items():
                if present.get(name) != digest:
                    report(f"pulling {name}")
                    _ctr(ctr, "images", "pull", "--hosts-dir", str(work / "certs.d"), name)
            gone = [name for name in present if name not in wanted]
            if gone:
                report(f"dropping {', '.join(gone)}")
                _ctr(ctr, "images", "rm", "--sync", *gone)
        finally:
            processes.stop("containerd", grace=20)
    write_private(record, json.dumps(wanted, indent=1))


def _ctr(ctr: list[str], *arguments: str) -> None:
    done = subprocess.run([*ctr, *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise LocalClusterError(
            f"`ctr {' '.join(arguments[:2])}` failed: {done.stderr.strip()[-500:]}"
        )
