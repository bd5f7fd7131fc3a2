"""One local cluster: `up` brings everything to the wanted state, `down` leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from local_cluster import chaos, dns, preflight, registry
from local_cluster.api import wait_for
from local_cluster.binaries import CLUSTER_FAMILIES, Binaries, Report, silent
from local_cluster.cgroups import Cgroup
from local_cluster.control_plane import ControlPlane
from local_cluster.debian import debian_binary, prepare_host
from local_cluster.errors import LocalClusterError
from local_cluster.gpus import advertise_gpus
from local_cluster.layout import (
    DEFAULT_NAME,
    Cache,
    ClusterPaths,
    cluster_home,
    locked,
    private_dir,
    write_private,
)
from local_cluster.limits import ensure_inotify_instances
from local_cluster.mounts import unmount_below
from local_cluster.network import Network, netns_exists, netns_name, remove_netns
from local_cluster.nodes import Node
from local_cluster.oci import BUSYBOX, ensure_base_images
from local_cluster.processes import ProcessTable
from local_cluster.proxy import start_proxy
from local_cluster.readiness import await_ready
from local_cluster.recycler import start_recycler
from local_cluster.seed import clone_seed
from local_cluster.storage import ensure_volumes
from local_cluster.subnets import Subnet, choose_subnet, host_routes, require_free

DEFAULT_NODES = 3


@dataclass(frozen=True)
class State:
    """What a cluster was asked to be; survives crashes in `cluster.json`."""

    prefix: str  # of its subnet, see subnets.py
    nodes: int
    gpus: int  # per node


class LocalCluster:
    """A cluster by its name; the object holds no state of its own."""

    def __init__(self, name: str = DEFAULT_NAME, *, audit_objects: bool = False) -> None:
        """audit_objects: an API server that is started writes to its audit log what FineTuneJobs,
        Jobs and pods became with each change, not only that they changed."""
        self.name = name
        self._audit_objects = audit_objects
        self.paths = ClusterPaths(cluster_home(), name)
        self.cache = Cache.from_environment()
        self.binaries = Binaries(self.cache)
        self.processes = ProcessTable(self.paths.run, self.paths.logs)

    # --- what others ask for -------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """Path of the administrator's kubeconfig."""
        return self.paths.kubeconfig

    @property
    def registry(self) -> str:
        """The registry's address for pushes from the host."""
        return f"{self.subnet.door}:{registry.REGISTRY_PORT}"

    @property
    def host_address(self) -> str:
        """The host's address as pods reach it (servers on the host must listen there)."""
        return self.subnet.host

    @property
    def subnet(self) -> Subnet:
        return Subnet(self._existing().prefix)

    @property
    def state(self) -> State | None:
        """What the cluster was asked to be; None where there is none."""
        try:
            return State(**json.loads(self.paths.state.read_text()))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise LocalClusterError(preflight.ROOT_NEEDED) from error

    def exists(self) -> bool:
        return self.state is not None

    def running(self) -> list[str]:
        """Names of the cluster's living processes."""
        return [name for name in self.processes.names() if self.processes.identity(name)]

    def require(self) -> None:
        """Refuse where there is no such cluster."""
        self._existing()

    def push(self, image: str) -> None:
        """Push an image of the buildah store to where all local clusters pull; before `up` too."""
        registry.push(self.cache, image)

    def node(self, reference: str | int) -> Node:
        """A node by number, by `n2`, or by its full name."""
        state = self._existing()
        text = str(reference).removeprefix(f"{self.name}-").removeprefix("n")
        if not text.isdigit() or not 1 <= int(text) <= state.nodes:
            names = ", ".join(f"{self.name}-n{k}" for k in range(1, state.nodes + 1))
            raise LocalClusterError(f"There is no node '{reference}'; there are {names}.")
        return self._node(int(text), Subnet(state.prefix), self.control_plane())

    def nodes(self) -> list[Node]:
        plane = self.control_plane()
        return [self._node(k, self.subnet, plane) for k in range(1, self._existing().nodes + 1)]

    def control_plane(self) -> ControlPlane:
        return ControlPlane(
            self.paths,
            self.subnet,
            self.processes,
            self.binaries,
            netns_name(self.name),
            self._audit_objects,
        )

    # --- prepare -------------------------------------------------------------------------------

    def prepare(
        self, report: Report = silent, nodes: int | None = None, gpus: int | None = None
    ) -> None:
        """Install, fetch and build what `up` needs and this host lacks (minutes at first).

        nodes, gpus as for `up`: what will not do is refused before anything is built.
        """
        state = self._plan(nodes, gpus)
        facts = preflight.gather(self.paths, state.nodes, state.gpus, [], self.running())
        # What is installed here cannot be an objection yet; everything else ends it early.
        preflight.require(replace(facts, missing_packages=()))
        if facts.missing_packages:
            report("packages", f"installing {', '.join(facts.missing_packages)}")
            prepare_host(list(facts.missing_packages))
        self._subnet_of(state)
        for package, path in (registry.DOCKER_REGISTRY, BUSYBOX):
            debian_binary(package, path, self.cache)
        self.binaries.build(CLUSTER_FAMILIES, report)

    # --- up ------------------------------------------------------------------------------------

    def up(
        self, nodes: int | None = None, gpus: int | None = None, report: Report = silent
    ) -> None:
        """Bring the cluster up, or back to what it should be; returns when every node is Ready.

        nodes, gpus (per node): None keeps what the cluster has (at first 3 nodes, no GPUs).
        A cluster can grow; it cannot shrink. report gets a stage and what is being done in it.
        """
        with self._locked():
            state = self._plan(nodes, gpus)
            report("check", "the host")
            preflight.require(
                preflight.gather(
                    self.paths,
                    state.nodes,
                    state.gpus,
                    self.binaries.missing(CLUSTER_FAMILIES),
                    self.running(),
                )
            )
            ensure_inotify_instances(state.nodes)
            network = self._claim_network(state)
            self._start(state, network, report)

    def _plan(self, nodes: int | None, gpus: int | None) -> State:
        state = self.state
        if state is None:
            return State("", DEFAULT_NODES if nodes is None else nodes, gpus or 0)
        if nodes is not None and nodes < state.nodes:
            raise LocalClusterError(
                f"Cluster '{self.name}' has {state.nodes} nodes and cannot shrink to {nodes}: run "
                "`down` first."
            )
        return State(state.prefix, nodes or state.nodes, state.gpus if gpus is None else gpus)

    def _claim_network(self, state: State) -> Network:
        """Choose the subnet, once, and make the network; others must not choose meanwhile."""
        with locked(Path("/run/lock/finetune-local-cluster")):
            self._refuse_foreign_namespace()
            subnet = self._subnet_of(state)
            private_dir(self.paths.root)
            private_dir(self.paths.volatile)
            write_private(self.paths.volatile / "home", str(self.paths.home))
            write_private(
                self.paths.state,
                json.dumps(asdict(State(subnet.prefix, state.nodes, state.gpus))),
            )
            network = Network(self.name, subnet)
            if network.ensure(state.nodes):
                self._clear_leftovers()
            return network

    def _refuse_foreign_namespace(self) -> None:
        """Two clusters of one name in different homes would share the namespace."""
        home = self._owner()
        if home in (None, str(self.paths.home)) or not netns_exists(netns_name(self.name)):
            return
        raise LocalClusterError(
            f"A cluster '{self.name}' of {home} is there already: take another --name, or run "
            f"`LOCAL_CLUSTER_HOME={home} python -m local_cluster down --name {self.name}`."
        )

    def _owner(self) -> str | None:
        """The home of the cluster that has this name on this machine."""
        try:
            return (self.paths.volatile / "home").read_text()
        except FileNotFoundError:
            return None

    def _taken(self) -> Iterator[str]:
        for path in self.paths.home.glob("*/cluster.json"):
            if path != self.paths.state:
                yield str(json.loads(path.read_text())["prefix"])

    def _clear_leftovers(self) -> None:
        """The namespace was made anew: whatever an earlier life left in the old one is dead."""
        self.processes.stop(*reversed(self.processes.names()), grace=2)
        Cgroup.of_cluster(self.name).kill()
        for folder in (self.paths.root, self.paths.volatile):
            unmount_below(folder)
        for path in self.paths.volatile.glob("n*"):
            shutil.rmtree(path)
        shutil.rmtree(self.paths.ipam, ignore_errors=True)

    def _start(self, state: State, network: Network, report: Report) -> None:
        netns, subnet = network.netns, network.subnet
        for folder in (self.paths.etc, self.paths.run, self.paths.logs):
            private_dir(folder)
        with ThreadPoolExecutor(max_workers=4) as pool:
            report("registry", "starting")
            base = pool.submit(self._start_registry, netns, subnet)
            report("seed", "cloning images")
            clones = [
                pool.submit(clone_seed, self.cache, self.paths.node(k).containerd_root)
                for k in range(1, state.nodes + 1)
            ]
            report("control plane", "starting")
            plane = self.control_plane()
            plane.start(state.nodes)
            base.result()
            for clone in clones:
                clone.result()
            report("nodes", "starting")
            nodes = [self._node(k, subnet, plane) for k in range(1, state.nodes + 1)]
            for node in nodes:
                chaos.reconnect(network, node)
            starting = [pool.submit(node.start) for node in nodes]
            dns.start_dns(self.paths, plane, self.processes, self.binaries, netns)
            start_proxy(self.paths, subnet, plane, self.processes, self.binaries, netns)
            ensure_volumes(plane.api, self.paths)
            start_recycler(self.name, self.processes)
            for started in starting:
                started.result()
        self._await_ready(nodes, report)
        for node in nodes:
            advertise_gpus(plane.api, node.name, state.gpus)
        report("ready", f"{state.nodes} nodes, {self.paths.kubeconfig}")

    def _start_registry(self, netns: str, subnet: Subnet) -> None:
        registry.start_registry(self.cache, self.paths.etc, self.processes, netns, subnet.door)
        ensure_base_images(self.cache, f"{subnet.door}:{registry.REGISTRY_PORT}")

    def _await_ready(self, nodes: list[Node], report: Report) -> None:
        await_ready(nodes, self.processes, report=report)
        report("dns", "waiting for an answer")
        wait_for(
            "The cluster's DNS does not answer",
            lambda: (
                dns.resolve(self.subnet.door, "kubernetes.default.svc.cluster.local")
                == self.subnet.first_service
            ),
            30,
            f"see {self.processes.log('coredns')}.",
            0.2,
        )
        wait_for(
            "Namespace 'default' has no ServiceAccount",
            lambda: (
                self.control_plane().api.call(
                    "GET", "/api/v1/namespaces/default/serviceaccounts/default"
                )[0]
                == 200
            ),
            30,
            f"see {self.processes.log('kube-controller-manager')}.",
        )

    # --- down ----------------------------------------------------------------------------------

    def down(self, report: Report = silent) -> None:
        """Stop and delete everything but the cache; harmless where there is nothing."""
        with self._locked():
            if (owner := self._owner()) not in (None, str(self.paths.home)):
                report("down", f"left alone: the cluster of this name belongs to {owner}, "
                       "set LOCAL_CLUSTER_HOME to that")  # fmt: skip
                return
            report("down", "stopping processes")
            names = list(reversed(self.processes.names()))
            daemons = [name for name in names if name.startswith(("kubelet", "containerd"))]
            self.processes.stop(*daemons, grace=0)
            cgroup = Cgroup.of_cluster(self.name)
            cgroup.kill()
            self.processes.stop(*(name for name in names if name not in daemons), grace=2)
            report("down", "removing mounts, control groups and network")
            for folder in (self.paths.root, self.paths.volatile):
                unmount_below(folder)
            cgroup.remove()
            remove_netns(netns_name(self.name))  # and with it the door and the route
            report("down", "deleting files")
            for folder in (self.paths.volatile, self.paths.root):
                if folder.exists():
                    shutil.rmtree(folder)
        self.paths.lock.unlink(missing_ok=True)

    # --- helpers -------------------------------------------------------------------------------

    def _subnet_of(self, state: State) -> Subnet:
        """The cluster's own, or one for a new cluster. Refuses what a host route overlaps."""
        if not state.prefix:
            return choose_subnet(self._taken(), host_routes())
        subnet = Subnet(state.prefix)
        require_free(subnet, host_routes())
        return subnet

    def _existing(self) -> State:
        state = self.state
        if state is None:
            raise LocalClusterError(
                f"There is no cluster '{self.name}': start it with "
                f"`python -m local_cluster up --name {self.name}`."
            )
        return state

    def _node(self, index: int, subnet: Subnet, plane: ControlPlane) -> Node:
        return Node(
            index, self.paths, subnet, plane, self.processes, self.binaries,
            netns_name(self.name),
        )  # fmt: skip

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` of a cluster at a time."""
        if os.geteuid() != 0:
            raise LocalClusterError(preflight.ROOT_NEEDED)
        with locked(self.paths.lock):
            yield
