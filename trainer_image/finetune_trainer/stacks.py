"""Where ranks stand: asked for when they are silent, and kept beside their logs."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from finetune_trainer.hang import judge, process_state
from finetune_trainer.logs import RotatingFile
from finetune_trainer.rank_process import RankProcess
from finetune_trainer.redaction import redact

WAIT_SECONDS = 1.0
"""What ranks get to write their stacks; the signal interrupts whatever they wait in."""
LIMIT = 2**20
"""Bytes of a rank's file; as many again are kept of what came before."""
ENTRY_LIMIT = 2**17
"""Characters of one look. Each thread has at most 100 frames, the main one comes last."""


def ask(ranks: Sequence[RankProcess]) -> list[str]:
    """What faulthandler wrote of all threads of each rank; empty of one that answers no signal.

    They must have given a sign of life: before that, the signal may still end them.
    """
    for rank in ranks:
        rank.stacks.write_bytes(b"")
        rank.send(signal.SIGUSR2)
    time.sleep(WAIT_SECONDS if ranks else 0)
    return [rank.stacks.read_text(errors="replace") for rank in ranks]


def see_others(
    ranks: Sequence[RankProcess], rank: RankProcess
) -> list[tuple[RankProcess, str, str]]:
    """What the other ranks do, and their stacks, before they leave because ``rank`` does."""
    others = [o for o in ranks if o is not rank and o.exit_code is None and o.silence.beat]
    return [
        (other, judge(process_state(other.process.pid), stacks).words, stacks)
        for other, stacks in zip(others, ask(others), strict=True)
    ]


def keep(logs: Path, rank: RankProcess, words: str, stacks: str) -> None:
    """Add what was seen to ``rank-<r>.stacks`` in the attempt's folder of logs. Never raises."""
    beat = rank.silence.beat
    head = (
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} no sign of life for {rank.silence.seconds:.0f} s "
        f"in phase {beat.get('phase')} after step {beat.get('step')}: the rank {words}\n"
    )
    file = RotatingFile(logs / f"rank-{rank.rank}.stacks", limit=LIMIT)
    file.write((head + redact(stacks[-ENTRY_LIMIT:]) + "\n").encode(errors="replace"))
    file.close()
