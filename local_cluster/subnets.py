"""Addresses of a cluster: one /16 for everything, chosen so that clusters never meet.

10.X.0.0/24       control plane: 10.X.0.1 is the API server, DNS, the registry
10.X.K.0/24       pods of node K (1 to 62)
10.X.64.K         node K
10.X.65.0/30      the door: .1 is the host, .2 the cluster
10.X.96.0/20      services
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

from local_cluster.errors import LocalClusterError

MAX_NODES = 62

# Tried in this order. The second range is for hosts whose VPN claims all of 10.0.0.0/8.
CANDIDATES = tuple(
    [f"10.{octet}" for octet in range(244, 224, -1)]
    + [f"172.{octet}" for octet in range(31, 15, -1)]
)


@dataclass(frozen=True)
class Subnet:
    """The addresses below one /16; `prefix` is its first two octets, as in `10.244`."""

    prefix: str

    @property
    def block(self) -> IPv4Network:
        return IPv4Network(f"{self.prefix}.0.0/16")

    @property
    def control_plane(self) -> str:
        return f"{self.prefix}.0.1"

    @property
    def pods(self) -> str:
        return f"{self.prefix}.0.0/18"

    def pods_of(self, node: int) -> str:
        return f"{self.prefix}.{node}.0/24"

    def node(self, node: int) -> str:
        return f"{self.prefix}.64.{node}"

    @property
    def host(self) -> str:
        """The host's address as pods see it."""
        return f"{self.prefix}.65.1"

    @property
    def door(self) -> str:
        """The cluster's address as the host sees it."""
        return f"{self.prefix}.65.2"

    @property
    def services(self) -> str:
        return f"{self.prefix}.96.0/20"

    @property
    def first_service(self) -> str:
        return f"{self.prefix}.96.1"

    @property
    def link(self) -> str:
        """Name of the host's end of the door (an interface name has at most 15 letters)."""
        return f"ftc-{self.prefix.replace('.', '-')}"


@dataclass(frozen=True)
class Route:
    """A route of the host: destination and the interface it leads to."""

    destination: IPv4Network
    device: str


def host_routes() -> list[Route]:
    """Every IPv4 route of the host in every table, but the default ones."""
    output = subprocess.run(
        ["ip", "-4", "-json", "route", "show", "table", "all"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return parse_routes(output)


def parse_routes(output: str) -> list[Route]:
    """The routes in the JSON of `ip -json route show`."""
    routes = []
    for entry in json.loads(output or "[]"):
        destination = entry.get("dst", "default")
        if destination in ("default", "0.0.0.0/0"):
            continue
        network = ipaddress.ip_network(destination, strict=False)
        if isinstance(network, IPv4Network):
            routes.append(Route(network, str(entry.get("dev", ""))))
    return routes


def collision(subnet: Subnet, routes: Iterable[Route]) -> Route | None:
    """The first route of somebody else that overlaps the subnet."""
    for route in routes:
        if route.device != subnet.link and route.destination.overlaps(subnet.block):
            return route
    return None


def choose_subnet(
    taken: Iterable[str], routes: Iterable[Route], candidates: Iterable[str] = CANDIDATES
) -> Subnet:
    """The first candidate that no other cluster has and no host route overlaps."""
    others, known = set(taken), list(routes)
    for prefix in candidates:
        subnet = Subnet(prefix)
        if prefix not in others and collision(subnet, known) is None:
            return subnet
    raise LocalClusterError(
        "Every subnet that a cluster could use (10.225–244.0.0/16, 172.16–31.0.0/16) overlaps a "
        "route of this host or another cluster: remove a route, or another cluster with `down`."
    )


def require_free(subnet: Subnet, routes: Iterable[Route]) -> None:
    """Refuse a subnet that a host route overlaps."""
    route = collision(subnet, routes)
    if route is not None:
        raise LocalClusterError(
            f"The cluster's subnet {subnet.block} overlaps this host's route {route.destination} "
            f"(on {route.device or 'no device'}): remove that route, or run `down` and `up` so "
            "that the cluster takes another subnet."
        )
