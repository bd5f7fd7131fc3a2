"""A small table of a cluster's nodes and processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_cluster.cluster import LocalCluster
    from local_cluster.nodes import Node


def print_status(cluster: LocalCluster) -> None:
    """Print what runs, what is Ready, and how much memory it takes."""
    state = cluster.state
    if state is None:
        print(f"There is no cluster '{cluster.name}'.")
        return
    print(f"cluster     {cluster.name}: {state.nodes} nodes, {state.gpus} GPUs each")
    print(f"kubeconfig  {cluster.kubeconfig}")
    print(f"registry    {cluster.registry} (for pushes; nodes call it localhost:5000)")
    print(f"network     {cluster.subnet.block}; pods see the host at {cluster.host_address}")
    print(f"\n{'NODE':<24}{'READY':<10}{'ADDRESS':<16}FAULT")
    for node in cluster.nodes():
        fault = node.paths.fault
        print(
            f"{node.name:<24}{_condition(node):<10}{node.address:<16}"
            f"{fault.read_text() if fault.exists() else ''}".rstrip()
        )
    print(f"\n{'PROCESS':<26}{'PID':<10}MEMORY")
    total = 0
    for name in cluster.processes.names():
        identity = cluster.processes.identity(name)
        memory = _resident(identity.pid) if identity else 0
        total += memory
        pid = str(identity.pid) if identity else "dead"
        print(f"{name:<26}{pid:<10}{memory / 2**20:.0f} MiB")
    print(f"{'':<36}{total / 2**20:.0f} MiB")


def _condition(node: Node) -> str:
    try:
        return node.condition() or "absent"
    except OSError:
        return "no answer"


def _resident(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")]
    return sizes[0] * 1024 if sizes else 0
