"""How many collectives a rank has begun: the one that is behind keeps the others waiting.

Stacks alone do not tell where ranks compute on a GPU: a collective is queued there, and its waiting
shows at whichever line next asks the device for a number. All ranks begin the same collectives in
the same order, so the count says who has not come to one that others are in.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

INTERVAL_SECONDS = 1.0


def tell(path: Path, count: Callable[[], int]) -> None:
    """Keep the count in ``path`` from now on, from a thread of its own: the training thread may
    stand in a collective. ``path`` should lie on the pod's own disk, which does not hang."""

    def work() -> None:
        told = -1
        while True:
            if (now := count()) != told:
                with contextlib.suppress(OSError):
                    _replace(path, now)
                    told = now
            time.sleep(INTERVAL_SECONDS)

    threading.Thread(target=work, name="collectives", daemon=True).start()


def read(path: Path) -> int | None:
    """The count of a rank of this pod; None: it has not said."""
    try:
        return int(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def share(folder: Path, rank: int, begun: int, sign: float) -> None:
    """Let the launchers of other pods know. ``sign``: when the rank gave its last sign of life; the
    count is void once it has given another one."""
    with contextlib.suppress(OSError):
        _replace(_shared(folder, rank), {"begun": begun, "sign": sign})


def shared(folder: Path, beats: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """The counts of ranks that are silent since these ``beats``, by rank."""
    counts = {}
    for beat in beats:
        rank = int(beat["rank"])
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(_shared(folder, rank).read_text())
            if said["sign"] == beat["at"]:
                counts[rank] = int(said["begun"])
    return counts


def _shared(folder: Path, rank: int) -> Path:
    return folder / f"collectives-{rank}.json"


def _replace(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
