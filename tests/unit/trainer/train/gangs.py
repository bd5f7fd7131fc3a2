"""Real gangs of processes for tests: gloo over loopback, forked from one warm server.

The server imports torch, DeepSpeed and transformers once; each rank is then a fork, so that a test
with three ranks takes a second and not a minute.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def run_gang(
    work: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120
) -> list[Any]:
    """Call ``work(place, *args)`` in ``world_size`` joined processes; the results are by rank.

    ``work`` must be importable by name. An exception in any rank fails the test with its traceback.
    """
    assert "WITHOUT_GANGS" not in os.environ, "a test that starts a gang has the mark of it"
    context = _server()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(
                target=_main, args=(Path(folder), work, rank, world_size, port, args), daemon=True
            )
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout)
        alive = [rank for rank, process in enumerate(ranks) if process.is_alive()]
        for process in ranks:
            process.kill()
            process.join()
        errors = [
            f"rank {rank}: {path.read_text()}"
            for rank in range(world_size)
            if (path := Path(folder) / f"error-{rank}").exists()
        ]
        assert not errors, "\n".join(errors)
        assert not alive, f"ranks {alive} still ran after {timeout} s"
        return [
            pickle.loads((Path(folder) / f"result-{rank}").read_bytes())
            for rank in range(world_size)
        ]


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


def free_ports(count: int) -> int:
    """The first of so many in a row: local rank r of a pod serves on the r-th."""
    while True:
        first = free_port()
        try:
            with ExitStack() as held:
                for port in range(first, first + count):
                    held.enter_context(socket.create_server(("", port)))
                return first
        except (OSError, OverflowError):
            continue


def _server() -> Any:
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unit.trainer.train.preload"])
    return context


def _main(
    folder: Path,
    work: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    args: tuple[Any, ...],
) -> None:
    from finetune_trainer.rendezvous import Place

    tempfile.tempdir = str(folder)  # what ranks make on the way goes with the gang
    place = Place(rank, rank, world_size, "localhost", port)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    try:
        result = work(place, *args)
        (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
    os._exit(0)
