"""Faults of a node, and the way back from each.

The nodes share one network namespace, so a partition is made of rules: the node's kubelet calls
the API server at its own node's address, and its pods have a range of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from local_cluster.gpus import advertise_gpus
from local_cluster.layout import write_private
from local_cluster.network import Network
from local_cluster.readiness import await_ready

if TYPE_CHECKING:
    from local_cluster.cluster import LocalCluster
    from local_cluster.nodes import Node


def kill(cluster: LocalCluster, node: Node) -> None:
    """The machine dies: kubelet, containerd and every process of its pods at once."""
    del cluster
    write_private(node.paths.fault, "killed")
    node.stop()


def partition(cluster: LocalCluster, node: Node) -> None:
    """The network fails: no API server for its kubelet, no peers for its pods; volumes work.

    Packets vanish silently, as on a broken switch. Pods of the node still reach each other.
    """
    write_private(node.paths.fault, "partitioned")
    _network(cluster).run("nft", "-f", "-", stdin=partition_rules(cluster, node))


def silence(cluster: LocalCluster, node: Node) -> None:
    """The kubelet alone dies: its pods run on and keep their network."""
    write_private(node.paths.fault, "silenced")
    cluster.processes.stop(node.kubelet, grace=0)


def heal(cluster: LocalCluster, node: Node) -> None:
    """Back from any of them; returns when the node is Ready."""
    reconnect(_network(cluster), node)
    node.start()
    await_ready([node], cluster.processes)
    state = cluster.state
    if state is not None and state.gpus:
        advertise_gpus(cluster.control_plane().api, node.name, state.gpus)


def reconnect(network: Network, node: Node) -> None:
    """Take a partition's rules away, if there are any, and forget the fault."""
    network.run("nft", "-f", "-", stdin=healing_rules(node))
    node.paths.fault.unlink(missing_ok=True)


Action = Callable[["LocalCluster", "Node"], None]

ACTIONS: dict[str, Action] = {
    "kill": kill,
    "partition": partition,
    "silence": silence,
    "heal": heal,
}


def _table(node: Node) -> str:
    return f"inet partition_n{node.index}"


def healing_rules(node: Node) -> str:
    """Adding first makes the deletion work whether or not the table is there."""
    return f"add table {_table(node)}\ndelete table {_table(node)}\n"


def partition_rules(cluster: LocalCluster, node: Node) -> str:
    """nftables rules that cut the node off; its own table, so healing is deleting it."""
    pods, address = cluster.subnet.pods_of(node.index), node.address
    return (
        healing_rules(node)
        + f"""\
table {_table(node)} {{
    chain forward {{
        type filter hook forward priority -200;
        ip saddr {pods} ip daddr != {pods} drop
        ip saddr != {pods} ip daddr {pods} drop
    }}
    chain input {{
        type filter hook input priority -200;
        # Kubelet to API server and back, image pulls: all between the node's address and itself.
        ip saddr {address} ip daddr {address} drop
        # Pods may answer their kubelet's probes; they begin nothing.
        ip saddr {pods} ct direction original drop
    }}
}}
"""
    )


def _network(cluster: LocalCluster) -> Network:
    return Network(cluster.name, cluster.subnet)
