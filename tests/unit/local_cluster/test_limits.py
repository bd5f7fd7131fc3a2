"""The inotify limit is raised, or its lack is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_cluster import LocalClusterError, limits
from local_cluster.limits import WANTED, ensure_inotify_instances


@pytest.mark.parametrize(("before", "after"), [(128, WANTED), (WANTED, WANTED), (8192, 8192)])
def test_the_limit_is_raised_and_never_lowered(tmp_path: Path, before: int, after: int) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text(f"{before}\n")
    ensure_inotify_instances(3, limit)
    assert int(limit.read_text()) == after


@pytest.mark.parametrize(("used", "nodes", "refused"), [(20, 3, False), (100, 3, True)])
def test_a_limit_that_cannot_be_raised_is_an_error_only_when_it_is_too_low(
    monkeypatch: pytest.MonkeyPatch, used: int, nodes: int, refused: bool
) -> None:
    class ReadOnly:
        def read_text(self) -> str:
            return "128"

        def write_text(self, _text: str) -> None:
            raise OSError(30, "Read-only file system")

    monkeypatch.setattr(limits, "used_instances", lambda: used)
    if not refused:
        ensure_inotify_instances(nodes, ReadOnly())  # type: ignore[arg-type]
        return
    with pytest.raises(LocalClusterError, match=r"sysctl fs\.inotify\.max_user_instances=1024"):
        ensure_inotify_instances(nodes, ReadOnly())  # type: ignore[arg-type]


def test_instances_are_counted_over_all_processes(tmp_path: Path) -> None:
    for pid, links in (("1", ["anon_inode:inotify", "/dev/null"]), ("2", ["anon_inode:inotify"])):
        folder = tmp_path / pid / "fd"
        folder.mkdir(parents=True)
        for number, target in enumerate(links):
            (folder / str(number)).symlink_to(target)
    assert limits.used_instances(tmp_path) == 2
