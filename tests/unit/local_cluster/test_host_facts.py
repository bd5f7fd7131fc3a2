"""What is read off the host: control groups, mounts, versions, names."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_cluster import LocalCluster, LocalClusterError
from local_cluster.binaries import CLUSTER_FAMILIES, FAMILIES, Binaries
from local_cluster.cgroups import hierarchies
from local_cluster.layout import Cache, ClusterPaths
from local_cluster.mounts import mounts_below
from local_cluster.registry import repository_and_tag
from local_cluster.toolchain import LOCK, parse_version, required_version

VERSION_1 = """\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 25 0:27 / /somewhere/else rw - cgroup cgroup rw,memory
"""
VERSION_2 = "25 1 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_1_hierarchies_win_and_count_once() -> None:
    roots, unified = hierarchies(VERSION_1)
    assert (roots, unified) == (
        [Path("/sys/fs/cgroup/cpu,cpuacct"), Path("/sys/fs/cgroup/memory")],
        False,
    )


STRAY = "40 1 0:30 / /run/vpn/net_cls rw - cgroup net_cls rw,net_cls\n"


@pytest.mark.parametrize("mountinfo", [VERSION_2, VERSION_2 + STRAY, STRAY + VERSION_2])
def test_a_version_2_host_has_one_hierarchy(mountinfo: str) -> None:
    assert hierarchies(mountinfo) == ([Path("/sys/fs/cgroup")], True)


def test_mounts_come_deepest_first_and_only_our_own() -> None:
    mountinfo = "\n".join(
        f"{number} 1 0:1 / {point} rw - tmpfs tmpfs rw"
        for number, point in enumerate(
            ["/s/a", "/s/a/volume", "/s/ab", "/other", "/s/a/with\\040blank"]
        )
    )
    assert mounts_below(Path("/s/a"), mountinfo) == [
        Path("/s/a/with blank"),
        Path("/s/a/volume"),
        Path("/s/a"),
    ]


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("localhost:5000/trainer:1", ("trainer", "1")),
        ("trainer:1", ("trainer", "1")),
        ("registry.example/team/trainer:1", ("team/trainer", "1")),
        ("team/trainer:1", ("team/trainer", "1")),
        ("localhost/base:2", ("base", "2")),
        ("docker://10.1.2.3:5000/a/b:c", ("a/b", "c")),
    ],
)
def test_image_names_lose_their_host(image: str, parts: tuple[str, str]) -> None:
    assert repository_and_tag(image) == parts


@pytest.mark.parametrize("image", ["trainer", "localhost:5000/trainer", "a@sha256:00"])
def test_an_image_needs_a_tag(image: str) -> None:
    with pytest.raises(LocalClusterError, match="names no tag"):
        repository_and_tag(image)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("1.26", (1, 26, 0)),
        ("go version go1.27rc1 linux/arm64", (1, 27, 0)),
    ],
)
def test_go_versions_compare_as_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_the_newest_module_decides_which_go_is_needed(tmp_path: Path) -> None:
    for name, version in (("a", "1.26.0"), ("b", "1.9.5"), ("c", "1.26.10")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "go.mod").write_text(f"module {name}\n\ngo {version}\n")
    assert required_version(tmp_path) == (1, 26, 10)


def test_the_go_that_is_installed_can_build_our_modules() -> None:
    assert parse_version(LOCK.read_text()) >= required_version()


def test_programs_report_the_version_that_is_pinned() -> None:
    kubernetes = next(family for family in FAMILIES if family.name == "kubernetes")
    assert kubernetes.version() == "v1.36.3"
    assert "k8s.io/component-base/version.gitVersion=v1.36.3" in kubernetes.ldflags()


def test_every_family_has_a_folder_of_its_own_and_a_cluster_needs_only_its_own(
    tmp_path: Path,
) -> None:
    folders = [family.folder(Cache(tmp_path)) for family in FAMILIES]
    assert len(set(folders)) == len(folders)
    assert [family.name for family in FAMILIES if family.name not in CLUSTER_FAMILIES] == [
        "helm",
        "kueue",
        "versitygw",
    ]


def test_an_unknown_program_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LocalClusterError, match=r"no program 'kubeadm'; there are .*kubectl"):
        Binaries(Cache(tmp_path)).path("kubeadm")


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 21, "a/b", "1a"])
def test_a_name_that_the_kernel_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(LocalClusterError, match="cannot name a cluster"):
        ClusterPaths(Path("/x"), name)


def test_asking_for_a_cluster_that_is_not_there_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_CLUSTER_HOME", str(tmp_path))
    with pytest.raises(
        LocalClusterError, match=r"no cluster 'absent': start it with .* --name abs"
    ):
        _ = LocalCluster("absent").registry
