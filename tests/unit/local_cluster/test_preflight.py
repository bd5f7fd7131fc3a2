"""Each missing thing is said in one sentence, with what to do about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from local_cluster.layout import ClusterPaths
from local_cluster.preflight import (
    CAPABILITIES,
    CHECKS,
    DISK,
    MEMORY_BASE,
    MEMORY_NODE,
    Facts,
    first_objection,
    gather,
)

ALL = sum(1 << bit for bit in CAPABILITIES.values())

GOOD = Facts(
    user=0,
    capabilities=ALL,
    missing_packages=(),
    missing_families=(),
    disk_free=DISK,
    disk_path="/var/lib",
    memory_available=2**31,
    memory_needed=2**31,
    nodes=3,
    gpus=0,
    longest_socket="/var/lib/finetune-local-cluster/finetune/nodes/n99/kubelet.sock",
    namespaces=True,
)


def test_a_good_host_has_no_objection() -> None:
    assert first_objection(GOOD) is None


@pytest.mark.parametrize(
    ("name", "changes", "said", "todo"),
    [
        ("root", {"user": 1000}, "needs root", "run the command with sudo"),
        (
            "capabilities",
            {"capabilities": ALL & ~(1 << 12) & ~(1 << 21)},
            "lacks CAP_NET_ADMIN, CAP_SYS_ADMIN",
            "--privileged",
        ),
        ("kernel", {"namespaces": False}, "no network namespaces", "another machine"),
        ("nodes", {"nodes": 0}, "must be 1 to 62", "--nodes"),
        ("nodes", {"nodes": 63}, "must be 1 to 62", "--nodes"),
        ("nodes", {"gpus": -1}, "--gpus at least 0", "--gpus"),
        ("paths", {"longest_socket": "/x" * 54}, "108 characters", "set LOCAL_CLUSTER_HOME"),
        (
            "packages",
            {"missing_packages": ("runc", "nftables")},
            "runc nftables are missing",
            "`python -m local_cluster prepare` (or apt-get install runc nftables)",
        ),
        (
            "binaries",
            {"missing_families": ("etcd",)},
            "etcd are not built",
            "`python -m local_cluster build`",
        ),
        ("disk", {"disk_free": DISK - 1}, "/var/lib has 2.0 GiB free", "free some, or set"),
        (
            "memory",
            {"memory_available": 2**30},
            "1.0 GiB of memory are available and the cluster needs 2.0 GiB",
            "take fewer --nodes",
        ),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(
    name: str, changes: dict[str, Any], said: str, todo: str
) -> None:
    facts = replace(GOOD, **changes)
    failing = [check for check, objects in CHECKS if objects(facts) is not None]
    assert failing == [name]
    sentence = first_objection(facts)
    assert sentence is not None
    assert said in sentence
    assert todo in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_root_comes_before_everything_that_only_root_can_see() -> None:
    assert [name for name, _ in CHECKS][:2] == ["root", "capabilities"]
    everything_wrong = replace(
        GOOD, user=1000, capabilities=0, missing_packages=("runc",), disk_free=0, memory_available=0
    )
    assert "needs root" in str(first_objection(everything_wrong))


@pytest.mark.parametrize(
    ("running", "needed"),
    [
        ([], MEMORY_BASE + 3 * MEMORY_NODE),
        (["kube-apiserver", "kubelet-n1", "kubelet-n2", "kubelet-n3"], 0),
        (["kube-apiserver", "kubelet-n1"], 2 * MEMORY_NODE),
    ],
)
def test_what_runs_already_needs_no_more_memory(
    tmp_path: Any, running: list[str], needed: int
) -> None:
    assert gather(ClusterPaths(tmp_path, "test"), 3, 0, [], running).memory_needed == needed


def test_a_long_home_is_noticed_before_a_kubelet_fails_on_it(tmp_path: Any) -> None:
    deep = tmp_path / ("d" * 90)
    facts = gather(ClusterPaths(deep, "test"), 3, 0, [])
    assert "unix socket" in str(first_objection(replace(GOOD, longest_socket=facts.longest_socket)))
