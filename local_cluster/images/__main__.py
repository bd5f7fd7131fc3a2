"""`python -m local_cluster.images build base|operator|trainer|model|all [--tag NAME]`, `list`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from local_cluster.errors import LocalClusterError
from local_cluster.images.base import build_base
from local_cluster.images.model import build_model
from local_cluster.images.product import build_operator, build_trainer
from local_cluster.images.store import Report, Store

BUILDERS: dict[str, Callable[[Report], str]] = {
    "base": build_base,
    "operator": build_operator,
    "model": build_model,
    "trainer": build_trainer,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    try:
        if options.command == "list":
            for reference, size in Store.from_environment().images():
                print(f"{size / 1e6:>8.0f} MB  {reference}")
            return 0
        for name in BUILDERS if options.image == "all" else (options.image,):
            started = time.monotonic()
            reference = BUILDERS[name](_say)
            print(f"{reference}  ({time.monotonic() - started:.1f} s)")
            if options.tag:
                named = f"{reference.rpartition(':')[0]}:{options.tag}"
                Store.from_environment().run("tag", reference, named)
                print(named)
    except LocalClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster.images", description="Builds the images of this project."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what changed and print its reference")
    build.add_argument("image", choices=[*BUILDERS, "all"])
    build.add_argument("--tag", help="a further tag besides the content hash, for instance dev")
    commands.add_parser("list", help="the images of the store, newest first, with their sizes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
