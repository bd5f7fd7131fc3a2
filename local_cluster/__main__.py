"""`python -m local_cluster …`: the command line of the local cluster."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

from local_cluster import chaos, registry
from local_cluster.binaries import FAMILIES
from local_cluster.cluster import DEFAULT_NODES, LocalCluster
from local_cluster.debian import prepare_host
from local_cluster.errors import LocalClusterError
from local_cluster.layout import DEFAULT_NAME
from local_cluster.oci import BUSYBOX_IMAGE, PAUSE_IMAGE
from local_cluster.preflight import ROOT_NEEDED
from local_cluster.seed import refresh_seed, seeded_images
from local_cluster.status import print_status

_FAMILY_NAMES = [family.name for family in FAMILIES]


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="python -m local_cluster",
        description="A complete upstream Kubernetes on this machine, without a container engine.",
    )
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=DEFAULT_NAME, help=f"cluster (default: {DEFAULT_NAME})")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", parents=[named], help="start the cluster, or repair it")
    up.add_argument("--nodes", type=int, help=f"number of nodes (at first {DEFAULT_NODES})")
    up.add_argument("--gpus", type=int, help="nvidia.com/gpu to advertise on each node")
    commands.add_parser("down", parents=[named], help="stop and delete it; the cache stays")
    commands.add_parser("status", parents=[named], help="show its processes and nodes")
    commands.add_parser("kubeconfig", parents=[named], help="print the kubeconfig's path")
    commands.add_parser("registry", parents=[named], help="print the address for image pushes")

    push = commands.add_parser("push", parents=[named], help="push images of the buildah store")
    push.add_argument("images", nargs="+", metavar="IMAGE")
    seed = commands.add_parser("seed", help="unpack images once for all nodes of later clusters")
    seed.add_argument("images", nargs="*", metavar="IMAGE", help="pushed images; none: show them")
    prune = commands.add_parser("prune", help="delete images from the registry's storage")
    prune.add_argument("--keep", nargs="*", default=[], metavar="IMAGE", help="beside the seed's")

    node = commands.add_parser("node", help="make a node fail, and heal it")
    actions = node.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, does in chaos.ACTIONS.items():
        summary = (does.__doc__ or "").partition("\n")[0]
        one = actions.add_parser(action, parents=[named], help=summary)
        one.add_argument("node", metavar="NODE", help="n2, or the node's full name")

    commands.add_parser("prepare", help="install the Debian packages that the host lacks")
    build = commands.add_parser("build", help="build the programs that the cache lacks")
    build.add_argument("families", nargs="*", metavar="FAMILY",
                       help=f"of {', '.join(_FAMILY_NAMES)} (default: all)")  # fmt: skip
    tool = commands.add_parser("bin", help="print the path of a built program")
    tool.add_argument("tool", metavar="TOOL", help="kubectl, helm, …")
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with one sentence on stderr otherwise."""
    arguments = parser().parse_args(argv)
    try:
        COMMANDS[arguments.command](arguments)
    except LocalClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"{error.filename}: {ROOT_NEEDED}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the same command again continues.", file=sys.stderr)
        return 130
    return 0


def _reporter() -> Callable[[str, str], None]:
    start = time.monotonic()

    def report(stage: str, detail: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {stage}: {detail}", flush=True)

    return report


def _up(arguments: argparse.Namespace) -> None:
    cluster, report = LocalCluster(arguments.name), _reporter()
    cluster.prepare(report, arguments.nodes, arguments.gpus)
    cluster.up(arguments.nodes, arguments.gpus, report)


def _down(arguments: argparse.Namespace) -> None:
    LocalCluster(arguments.name).down(_reporter())


def _status(arguments: argparse.Namespace) -> None:
    print_status(LocalCluster(arguments.name))


def _kubeconfig(arguments: argparse.Namespace) -> None:
    cluster = LocalCluster(arguments.name)
    cluster.require()
    print(cluster.kubeconfig)


def _registry(arguments: argparse.Namespace) -> None:
    print(LocalCluster(arguments.name).registry)


def _push(arguments: argparse.Namespace) -> None:
    cluster, report = LocalCluster(arguments.name), _reporter()
    for image in arguments.images:
        report("push", image)
        cluster.push(image)
    report("push", "done")


def _seed(arguments: argparse.Namespace) -> None:
    cluster, report = LocalCluster(), _reporter()
    if arguments.images:
        refresh_seed(
            cluster.cache, cluster.binaries, arguments.images, lambda text: report("seed", text)
        )
    for image, digest in seeded_images(cluster.cache).items():
        print(f"{image}  {digest}")


def _prune(arguments: argparse.Namespace) -> None:
    cache = LocalCluster().cache
    keep = {PAUSE_IMAGE, BUSYBOX_IMAGE, *seeded_images(cache), *arguments.keep}
    for image in registry.prune(cache, keep):
        print(f"deleted {image}")


def _node(arguments: argparse.Namespace) -> None:
    cluster = LocalCluster(arguments.name)
    chaos.ACTIONS[arguments.action](cluster, cluster.node(arguments.node))


def _prepare(_arguments: argparse.Namespace) -> None:
    if os.geteuid() != 0:
        raise LocalClusterError("Installing packages needs root: run it with sudo.")
    installed = prepare_host()
    print(f"installed {', '.join(installed)}" if installed else "no package is missing")


def _build(arguments: argparse.Namespace) -> None:
    LocalCluster().binaries.build(arguments.families or _FAMILY_NAMES, _reporter())


def _bin(arguments: argparse.Namespace) -> None:
    path = LocalCluster().binaries.path(arguments.tool)
    if not path.exists():
        raise LocalClusterError(f"{arguments.tool} is not built yet: run the command `build`.")
    print(path)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "registry": _registry,
    "push": _push,
    "seed": _seed,
    "prune": _prune,
    "node": _node,
    "prepare": _prepare,
    "build": _build,
    "bin": _bin,
}


if __name__ == "__main__":
    sys.exit(main())
