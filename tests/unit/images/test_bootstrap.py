"""The first program on a fresh machine: environments by lock file, and clear refusals."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import bootstrap
from local_cluster.bootstrap import BootstrapError
from local_cluster.images.tools import find_uv

BOOTSTRAP = Path(bootstrap.__file__)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has uv already (so nothing is loaded) and an environment of no packages."""
    root = tmp_path / "cache"
    uv = find_uv() or pytest.fail("no uv: run the tests with `make test-unit`, or set UV")
    installed = root / f"uv-{bootstrap.digest(BOOTSTRAP.with_name('bootstrap.lock'))}" / "bin"
    installed.mkdir(parents=True)
    (installed / "uv").symlink_to(uv)
    lock = tmp_path / "requirements.lock"
    lock.write_text("")
    monkeypatch.setenv("FINETUNE_CACHE", str(root))
    monkeypatch.setattr(bootstrap, "REPOSITORY", tmp_path)
    monkeypatch.setattr(bootstrap, "ENVIRONMENTS", {"none": ("requirements.lock", 0.0)})
    return root


def _environment(cache: Path) -> Path:
    (folder,) = (cache / "venv").iterdir()
    return folder


def test_the_command_finds_python_and_our_packages(cache: Path, tmp_path: Path) -> None:
    environment = bootstrap.prepare("none")
    folder = _environment(cache)
    assert shutil.which("python", path=environment["PATH"]) == str(folder / "bin" / "python")
    assert str(tmp_path / "examples") in environment["PYTHONPATH"].split(":")
    assert environment["UV"].startswith(str(cache))


def test_a_second_start_keeps_the_environment(cache: Path) -> None:
    bootstrap.prepare("none")
    marker = _environment(cache) / "kept"
    marker.touch()
    bootstrap.prepare("none")
    assert marker.exists()


def test_a_half_made_environment_is_made_anew(cache: Path) -> None:
    bootstrap.prepare("none")
    rest = _environment(cache) / "half-installed"
    rest.touch()
    (_environment(cache) / ".complete").unlink()
    bootstrap.prepare("none")
    assert not rest.exists()
    assert (_environment(cache) / ".complete").exists()


def test_another_lock_is_another_environment(cache: Path, tmp_path: Path) -> None:
    bootstrap.prepare("none")
    (tmp_path / "requirements.lock").write_text("# changed\n")
    bootstrap.prepare("none")
    assert len(list((cache / "venv").iterdir())) == 2


def test_a_full_disk_is_said_before_anything_is_installed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "ENVIRONMENTS", {"none": ("requirements.lock", 1e9)})
    with pytest.raises(BootstrapError, match=r"needs 1000000000 GiB of disk .* FINETUNE_CACHE"):
        bootstrap.prepare("none")
    assert list((cache / "venv").iterdir()) == []


def test_an_old_python_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(BootstrapError, match=r"install Python 3\.11 or newer .* PYTHON="):
        bootstrap.check_host(needs_root=False)


@pytest.mark.parametrize("context", ["", "prod"])
def test_images_and_the_local_cluster_need_root(
    monkeypatch: pytest.MonkeyPatch, context: str
) -> None:
    monkeypatch.setenv("CONTEXT", context)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BootstrapError, match=r"sudo make .* CONTEXT="):
        bootstrap.check_host(needs_root=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bootstrap.check_host(needs_root=True)


def test_a_second_start_says_that_it_waits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from local_cluster import bootstrap\n"
        "with bootstrap.locked(Path(sys.argv[1])): print('mine')"
    )
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = subprocess.Popen(
            [sys.executable, "-c", code, lock],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(BOOTSTRAP.parents[1])},
        )
        assert other.stderr is not None
        assert "waiting for another start" in other.stderr.readline()
        assert other.poll() is None
    out, _ = other.communicate(timeout=10)
    assert out == "mine\n"


def test_it_needs_nothing_but_the_standard_library() -> None:
    # -I -S: no site-packages, no environment, no working directory on the path.
    done = subprocess.run(
        [sys.executable, "-I", "-S", BOOTSTRAP, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Run a command" in done.stdout
