"""Which addresses a cluster takes."""

from __future__ import annotations

import ipaddress
import json

import pytest

from local_cluster import LocalClusterError
from local_cluster.subnets import (
    CANDIDATES,
    MAX_NODES,
    Route,
    Subnet,
    choose_subnet,
    parse_routes,
    require_free,
)


def route(destination: str, device: str = "eth0") -> Route:
    return Route(ipaddress.IPv4Network(destination), device)


@pytest.mark.parametrize(
    ("taken", "routes", "chosen"),
    [
        ([], [], "10.244"),
        ([], [route("192.0.2.0/24")], "10.244"),
        (["10.244"], [], "10.243"),
        ([], [route("10.244.7.0/24")], "10.243"),
        ([], [route("10.240.0.0/12")], "10.239"),
        (["10.243"], [route("10.244.0.0/16")], "10.242"),
        ([], [route("10.0.0.0/8", "vpn0")], "172.31"),
        # A route that is left of an earlier cluster of ours is still somebody's.
        ([], [route("10.244.0.0/16", "ftc-10-243")], "10.243"),
        # The door of the very subnet is not a collision.
        ([], [route("10.244.0.0/16", "ftc-10-244")], "10.244"),
    ],
)
def test_a_cluster_takes_the_first_subnet_that_is_free(
    taken: list[str], routes: list[Route], chosen: str
) -> None:
    assert choose_subnet(taken, routes).prefix == chosen


def test_when_nothing_is_free_the_way_out_is_said() -> None:
    with pytest.raises(LocalClusterError, match=r"overlaps a route .* another cluster with `down`"):
        choose_subnet(CANDIDATES, [])


def test_a_collision_names_both_sides() -> None:
    with pytest.raises(
        LocalClusterError, match=r"10\.244\.0\.0/16 overlaps .* 10\.244\.3\.0/24 \(on vpn0\)"
    ):
        require_free(Subnet("10.244"), [route("10.244.3.0/24", "vpn0")])


def test_default_routes_collide_with_nothing() -> None:
    output = json.dumps(
        [
            {"dst": "default", "dev": "eth0"},
            {"dst": "10.1.2.3", "dev": "lo"},
            {"dst": "10.2.0.0/16", "dev": "vpn0"},
            {"type": "blackhole", "dst": "10.3.0.0/16"},
        ]
    )
    assert parse_routes(output) == [
        route("10.1.2.3/32", "lo"),
        route("10.2.0.0/16", "vpn0"),
        route("10.3.0.0/16", ""),
    ]
    assert parse_routes("") == []


def test_the_parts_of_a_subnet_lie_inside_it_and_apart() -> None:
    subnet = Subnet("10.244")
    pods = [ipaddress.IPv4Network(subnet.pods_of(k)) for k in range(1, MAX_NODES + 1)]
    parts = [
        *pods,
        ipaddress.IPv4Network(subnet.services),
        ipaddress.IPv4Network(f"{subnet.host}/30", strict=False),
        *(ipaddress.IPv4Network(subnet.node(k)) for k in range(1, MAX_NODES + 1)),
        ipaddress.IPv4Network(subnet.control_plane),
    ]
    assert all(part.subnet_of(subnet.block) for part in parts)
    assert not any(a.overlaps(b) for i, a in enumerate(parts) for b in parts[:i])
    assert all(part.subnet_of(ipaddress.IPv4Network(subnet.pods)) for part in pods)


@pytest.mark.parametrize("prefix", CANDIDATES)
def test_the_door_has_a_name_that_the_kernel_takes(prefix: str) -> None:
    assert len(Subnet(prefix).link) <= 15
