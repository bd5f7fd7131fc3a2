"""PID 1 of a training pod: starts its ranks, watches them, and speaks for them at the end.

Plain Python without torch, so that it starts at once. It exits with the code of the first rank
that failed by itself and leaves one termination message for all of them.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from finetune_trainer import collectives, outcome
from finetune_trainer.container import available_cpus, oom_kills
from finetune_trainer.failures import BY_NAME
from finetune_trainer.hang import (
    Silence,
    guilty,
    hang_failure,
    judge,
    leader,
    process_state,
)
from finetune_trainer.heartbeat import read_all
from finetune_trainer.logs import RankLog, configure
from finetune_trainer.pod import Pod
from finetune_trainer.rank_process import COLLECTIVE, HOST_OOM, PREEMPTED, RankProcess
from finetune_trainer.stacks import ask, keep, see_others
from finetune_trainer.verdict import exit_code, verdict
from finetune_trainer.wakeups import become_reaper, signals
from finetune_trainer.within import within

TERM_SECONDS = 1.0
"""What the ranks that remain get between SIGTERM and SIGKILL once one of them has died."""
FOLLOW_SECONDS = 30.0
"""What they get when the first one left because the pod was asked to stop."""
LOG_LIMIT = 16 * 2**20
"""Bytes of a rank's log file; as many again are kept of what came before."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""On CPUs each step takes and gives back gigabytes. In pages of 4 kB that is half a million faults
a step of full fine-tuning of 135M, and a fifth of its time; larger ones go to who asks for them."""

HANG = BY_NAME["Hang"].exit_code

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class Launcher:
    pod: Pod
    environment: Mapping[str, str]
    command: tuple[str, ...] = (sys.executable, "-m", "finetune_trainer.rank")
    look_seconds: float = 5.0
    """So often it looks for signs of life; what ends a rank wakes it up at once."""
    volume_seconds: float = 10.0
    """Patience with the volume: one that hangs keeps ranks silent, and somebody has to say so."""
    ranks: list[RankProcess] = field(default_factory=list)
    order_of_death: list[RankProcess] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    asked_to_stop: bool = False
    oom_kills: int = field(default_factory=oom_kills)
    """Processes of this container that the kernel had killed for memory when it started."""
    listened_at: float = field(default_factory=time.monotonic)
    term_at: float = math.inf
    """When the ranks that remain are asked to go (monotonic clock)."""
    kill_at: float = math.inf
    """When they are made to."""

    def run(self) -> int:
        """Start the ranks, wait for the last one, report. Returns the exit code of the pod."""
        become_reaper()
        with tempfile.TemporaryDirectory(prefix="finetune-") as records, signals() as wake:
            self._start(Path(records))
            while any(rank.exit_code is None for rank in self.ranks):
                due = min(self.term_at, self.kill_at) - time.monotonic()
                select.select([wake.socket], [], [], min(max(due, 0.0), self.look_seconds))
                self._on_signals(wake.take())
                self._reap()
                self._end_survivors()
                self._listen()
            for rank in self.ranks:
                rank.log.drain(timeout=1.0)
            result = verdict(self.pod, self.ranks, self.order_of_death)
        outcome.report(result, None, self.pod.termination_log)
        if self.pod.result_path is not None:
            self._on_volume(partial(outcome.keep, result, self.pod.result_path))
        return exit_code(result)

    def _on_volume(self, call: Callable[[], T]) -> T | None:
        return within(self.volume_seconds, call, "the volume")

    @property
    def _logs(self) -> Path:
        return self.pod.folder / "logs"

    def _start(self, records: Path) -> None:
        workers = self.pod.config.workers
        for local_rank in range(workers.ranks_per_worker):
            rank = self.pod.index * workers.ranks_per_worker + local_rank
            record_path = records / f"rank-{rank}.json"
            beat, stacks = records / f"beat-{rank}.json", records / f"stacks-{rank}.txt"
            begun = records / f"collectives-{rank}.json"
            environment = {
                **(HUGE_PAGES if workers.device == "CPU" else {}),
                "OMP_NUM_THREADS": str(max(1, available_cpus() // workers.ranks_per_worker)),
                **self.environment,
                "RANK": str(rank),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(workers.world_size),
                "LOCAL_WORLD_SIZE": str(workers.ranks_per_worker),
                "FINETUNE_RECORD": str(record_path),
                "FINETUNE_BEAT": str(beat),
                "FINETUNE_STACKS": str(stacks),
                "FINETUNE_COLLECTIVES": str(begun),
                "FINETUNE_STARTED_AT": str(self.started_at),
                "PYTHONUNBUFFERED": "1",
            }
            process = subprocess.Popen(
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert process.stdout is not None  # noqa: S101 - by PIPE above
            rank_log = RankLog(
                process.stdout,
                rank=rank,
                path=self._logs / f"rank-{rank}.log",
                limit=LOG_LIMIT,
            )
            self.ranks.append(
                RankProcess(
                    *(rank, local_rank, process, rank_log, record_path, Silence(beat), stacks),
                    collectives=begun,
                )
            )

    def _on_signals(self, received: set[int]) -> None:
        if received & {signal.SIGTERM, signal.SIGINT}:
            self.asked_to_stop = True
            self._send_all(signal.SIGTERM)

    def _send_all(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            rank.send(number)

    def _reap(self) -> None:
        """Collect the ends of ranks and of orphans; waiting for any child leaves no zombie."""
        by_pid = {rank.process.pid: rank for rank in self.ranks}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            rank = by_pid.get(pid)
            if rank is not None:
                self._on_end(rank, os.waitstatus_to_exitcode(status))

    def _listen(self) -> None:
        """Find a rank that stands still and end it; the gang ends with it."""
        now = time.monotonic()
        passed, self.listened_at = now - self.listened_at, now
        for rank in self.ranks:
            rank.silence.listen(passed)
        if self.asked_to_stop or self.order_of_death:
            return
        for rank in self.ranks:
            if rank.silence.calls_for_a_look:
                rank.silence.looks += 1
                self._look_at(rank)

    def _look_at(self, rank: RankProcess) -> None:
        """A silent rank: have its stacks, and end it if the others wait for it."""
        (stacks,) = ask([rank])
        sight = judge(process_state(rank.process.pid), stacks)
        log.warning(
            "rank %d gave no sign of life for %.0f s: it %s\n%s",
            *(rank.rank, rank.silence.seconds, sight.words, stacks),
        )
        own = {
            each.rank: begun
            for each in self.ranks
            if (begun := collectives.read(each.collectives)) is not None
        }
        told = self._on_volume(partial(self._others_told, rank, own))
        if told is None:
            sight = sight._replace(words=f"{sight.words}; the volume did not answer either")
        beats, counts = told or ([], {})
        lead = leader(rank.rank, {**counts, **own})
        seen = [(rank, sight.words, stacks)]
        if guilty(rank.rank, sight, rank.silence, beats, lead):
            rank.seen = hang_failure(rank.silence, sight, lead)
            rank.hung = True
            seen += see_others(self.ranks, rank)
            rank.send(signal.SIGKILL)
        self._on_volume(partial(self._keep, seen))

    def _keep(self, seen: Sequence[tuple[RankProcess, str, str]]) -> None:
        for each in seen:
            keep(self._logs, *each)

    def _others_told(
        self, rank: RankProcess, own: Mapping[int, int]
    ) -> tuple[list[dict[str, Any]], dict[int, int]]:
        """Last signs and counts of collectives of all ranks, from the volume; they hear of ours."""
        folder = self.pod.folder / "heartbeats"
        if rank.rank in own:
            sign = float(rank.silence.beat["at"])
            collectives.share(folder, rank.rank, own[rank.rank], sign)
        beats = read_all(folder, self.pod.config.workers.world_size)
        return beats, collectives.shared(folder, beats)

    def _on_end(self, rank: RankProcess, code: int) -> None:
        rank.exit_code = rank.process.returncode = code if code >= 0 else 128 - code
        if rank.hung and code == -signal.SIGKILL:  # it may have come back and ended by itself
            rank.exit_code = HANG
        elif self._was_too_large(rank):
            rank.seen = HOST_OOM | {"at": round(time.time(), 3)}
        if self.asked_to_stop and rank.exit_code == 128 + signal.SIGTERM:
            rank.exit_code = PREEMPTED  # it was too young to catch the signal
        self.order_of_death.append(rank)
        log.info("rank %d ended with code %d", rank.rank, rank.exit_code)
        now = time.monotonic()
        if rank.exit_code == 0:
            return
        if rank.exit_code == PREEMPTED and self.asked_to_stop:
            # All ranks agreed to stop and leave one by one.
            self.kill_at = min(self.kill_at, now + FOLLOW_SECONDS)
            return
        # One that lost its peers leaves before the culprit may have said its last words.
        pause = TERM_SECONDS if rank.exit_code == COLLECTIVE else 0.0
        self.term_at = min(self.term_at, now + pause)
        self.kill_at = min(self.kill_at, now + pause + TERM_SECONDS)

    def _was_too_large(self, rank: RankProcess) -> bool:
        """The kernel killed it for the container's memory limit."""
        killed = rank.exit_code == 128 + signal.SIGKILL and not rank.told_to_end
        return killed and oom_kills() > self.oom_kills

    def _end_survivors(self) -> None:
        now = time.monotonic()
        if now >= self.term_at:
            for rank in self.ranks:
                if rank.exit_code is None:
                    rank.told_to_end = True
                    rank.send(signal.SIGTERM)
            self.term_at = math.inf
        if now >= self.kill_at:
            self._send_all(signal.SIGKILL)
            self.kill_at = math.inf


def main(env: Mapping[str, str] = os.environ) -> int:
    """Run this pod's ranks. Returns the exit code of the container."""
    # The kernel drops a signal that PID 1 has no handler for, unless it is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    configure()
    try:
        pod = Pod.from_env(env)
    except Exception as error:
        log.error("%s", error)
        attempt = int(env["FINETUNE_ATTEMPT"]) if env.get("FINETUNE_ATTEMPT", "").isdigit() else 0
        result = outcome.failed("train", attempt, error)
        path = Path(env.get("FINETUNE_TERMINATION_LOG", outcome.TERMINATION_LOG))
        outcome.report(result, None, path)
        return exit_code(result)
    return Launcher(pod, env).run()
