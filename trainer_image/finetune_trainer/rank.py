"""The life of one rank: answer probes, meet the others, train, save, and say how it ended.

Imports are in the order of need: the HTTP server and the watch for SIGTERM stand before torch,
which takes seconds to load.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import lean_imports, outcome
from finetune_trainer.account import Account
from finetune_trainer.config import METRICS_PORT, RUN_JSON, WORKSPACE, RunConfig, load_run_config
from finetune_trainer.errors import StageError, failure_class
from finetune_trainer.failures import BY_NAME
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.logs import configure
from finetune_trainer.metrics import Metrics
from finetune_trainer.patience import Patience
from finetune_trainer.progress import Progress
from finetune_trainer.rendezvous import Place
from finetune_trainer.server import serve
from finetune_trainer.shutdown import Shutdown, block_signal

LINGER_SECONDS = 2.0
"""How long rank 0 still answers after the end; the result is on the volume and in the message."""
_PR_SET_PDEATHSIG = 1

log = logging.getLogger("finetune_trainer.rank")


@dataclass
class Rank:
    """One rank and what it needs before torch is there."""

    config: RunConfig
    place: Place
    attempt: int
    workspace: Path
    record: Path | None
    env: Mapping[str, str]

    def __post_init__(self) -> None:
        folder = self.workspace / "attempts" / str(self.attempt)
        self.folder = folder
        self.started_at = float(self.env.get("FINETUNE_STARTED_AT", time.time()))
        """When the container started, in Unix seconds."""
        self.account = Account(self.started_at)
        self.metrics = Metrics(rank=self.place.rank)
        self.progress = Progress(self.attempt, folder / "heartbeats", self.place.world_size)
        self.heartbeat = Heartbeat(
            folder / "heartbeats",
            self.place.rank,
            beside=Path(self.env["FINETUNE_BEAT"]) if "FINETUNE_BEAT" in self.env else None,
            patience=Patience(self.config.recovery.hang_after_seconds),
        )
        self.recent = outcome.RecentLines()
        self.recent.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self.recent)
        self._ending = threading.Lock()

    def serve(self) -> None:
        base = int(self.env.get("FINETUNE_METRICS_PORT", METRICS_PORT))
        port = base + self.place.local_rank if base else 0
        progress = self.progress.render if self.place.rank == 0 else None
        port = serve(port, self.metrics.registry, progress)
        log.info("rank %d of %d answers on port %d", self.place.rank, self.place.world_size, port)
        # The log outlives the pod: it is the one place that still says where the rank ran.
        where = [self.env.get(name, "unknown") for name in ("FINETUNE_POD", "FINETUNE_NODE")]
        log.info("pod %s, node %s", *where)

    def run(self) -> dict[str, Any]:
        """Do the work. Returns the outcome; on ranks other than 0 it only says that all is well."""
        self.heartbeat.beat("init", 0)
        shutdown = Shutdown(self.leave)
        lean_imports.begin()
        from finetune_trainer.session import train  # torch comes with it

        numbers = train(self, shutdown)
        return outcome.succeeded("train", self.attempt, **numbers)

    def leave(self, error: BaseException) -> None:
        """Say why and end the process at once: no finally, no collective, no waiting thread."""
        with self._ending:  # whoever comes second has nothing to add
            kind = failure_class(error)
            log.error("%s: %s", kind.name, error, exc_info=_traceback_of(error))
            self._write(self._failed(error))
            sys.stdout.flush()
            os._exit(kind.exit_code)

    def finish(self, result: dict[str, Any]) -> None:
        self._write(result)
        if self.place.rank == 0:
            time.sleep(LINGER_SECONDS)
        sys.stdout.flush()
        # Not sys.exit: threads of gloo and NCCL have been seen to hang at interpreter shutdown.
        os._exit(0)

    def _failed(self, error: BaseException) -> dict[str, Any]:
        result = outcome.failed("train", self.attempt, error, self.recent.lines)
        kind = failure_class(error)
        if kind is BY_NAME["Preempted"]:
            result["outcome"] = "preempted"
        result["failure"] |= {
            "rank": self.place.rank,
            "localRank": self.place.local_rank,
            "step": self.heartbeat.step,
        }
        if (start := self.progress.resumed_from) is not None:
            result["resumedFrom"] = start
        result["account"] = self.account.content()
        return result

    def _write(self, result: dict[str, Any]) -> None:
        if self.record is None:
            return
        try:
            outcome.write_json(self.record, result)
        except OSError as error:
            log.warning("cannot write %s: %s", self.record, error)


def _traceback_of(error: BaseException) -> BaseException | None:
    return None if isinstance(error, StageError) else error


def die_with_parent() -> None:
    """Do not outlive the launcher."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(env: Mapping[str, str] = os.environ) -> None:
    """Live. Never returns: every way out is an exit code of the failure table, or 0."""
    block_signal()
    die_with_parent()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if "FINETUNE_STACKS" in env:  # where the launcher looks for them
        stacks = os.open(env["FINETUNE_STACKS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        faulthandler.register(signal.SIGUSR2, stacks, all_threads=True)
    configure()
    rank = Rank(
        config=load_run_config(Path(env.get("FINETUNE_RUN_JSON", RUN_JSON))),
        place=Place.from_env(env),
        attempt=int(env["FINETUNE_ATTEMPT"]),
        workspace=Path(env.get("FINETUNE_WORKSPACE", WORKSPACE)),
        record=Path(env["FINETUNE_RECORD"]) if "FINETUNE_RECORD" in env else None,
        env=env,
    )
    try:
        rank.serve()
        result = rank.run()
    except BaseException as error:
        rank.leave(_understood(error))
    else:
        rank.finish(result)


def _understood(error: BaseException) -> BaseException:
    if "torch" not in sys.modules:
        return error
    from finetune_trainer.gang import translated

    return translated(error)


if __name__ == "__main__":
    main()
