"""The last lines of a log that say something: what status shows of it.

Noise goes first, then what is repeated; of tracebacks the end is kept. What other ranks of the pod
said too is told once, with their number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

MAX_LINES = 20
MAX_LINE = 300
FRAMES = 4
"""Innermost frames that are kept of a traceback."""
INNERMOST_FIRST = "(most recent call first)"
"""How faulthandler announces a stack."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")
_RANK = re.compile(r"^\[(?:rank|default) ?\d{1,6}\]: ?")
_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+")
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'^\s+File "')

_NOISE = re.compile(
    r"^[\s^~|+-]*$"  # blank, or the marks below a line of a traceback
    r"|\d{1,3}%\||\bit/s\b"  # progress bars
    r"|\b(?:Future|User|Deprecation|PendingDeprecation|Runtime|Resource)Warning: "
    r"|^\s*warnings\.warn\("
    r"|^\s*frame #\d|^Exception raised from .{1,400}most recent call first"  # native stacks
    r"|\bNCCL INFO\b|\[INFO\] \[\w{1,60}\.py:|^Extension modules: "
    r"|^(?:For debugging consider passing CUDA_|Compile with `TORCH_USE_CUDA_DSA`)"
    r"|^(?:CUDA kernel errors might be asynchronously reported|For more information check: )"
)
_ROUTINE = re.compile(r"^(?:\S{8,10} \S{8,14} )?(?:INFO|DEBUG) ")


def last_lines(lines: Sequence[str], others: Iterable[Sequence[str]] = ()) -> list[str]:
    """What to show of ``lines``; ``others`` are the logs of the pod's other ranks."""
    plain = [_plain(line) for line in lines]
    kept = [line for line in _short_tracebacks(plain) if not _NOISE.search(line)]
    kept = [line for line in kept if not _ROUTINE.match(line)] or kept
    said = [{_key(_plain(line)) for line in log} for log in others]
    times = Counter(_key(line) for line in kept)
    shown: list[str] = []
    seen: set[str] = set()
    for line in reversed(kept):
        key = _key(line)
        frame = line.startswith("  ")
        if key in seen and not frame:
            continue
        seen.add(key)
        ranks = 1 + sum(key in log for log in said)
        counts = [f"×{times[key]}"] if times[key] > 1 and not frame else []
        counts += [f"×{ranks} ranks"] if ranks > 1 and not frame else []
        shown.append(_cut(line) + (f" ({', '.join(counts)})" if counts else ""))
        if len(shown) == MAX_LINES:
            break
    return shown[::-1]


def _plain(line: str) -> str:
    """Without colours, without what a progress bar wrote over, without the rank."""
    line = _COLOURS.sub("", line).rstrip().rpartition("\r")[2]
    return _RANK.sub("", line)


def _key(line: str) -> str:
    """What two lines have in common that differ only in numbers (times, addresses, ports) or
    behind the cut."""
    return _VARIABLE.sub("#", line[:MAX_LINE])


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + "…"


def _short_tracebacks(lines: Iterable[str]) -> list[str]:
    kept: list[str] = []
    frames: list[list[str]] = []
    upside_down = False
    for line in lines:
        if _FRAME.match(line):
            frames.append([line])
        elif frames and (line.startswith("  ") or not line):
            frames[-1].append(line)
        else:
            kept += _innermost(frames, upside_down)
            frames, upside_down = [], INNERMOST_FIRST in line
            if line != _TRACEBACK:
                kept.append(line)
    return kept + _innermost(frames, upside_down)


def _innermost(frames: list[list[str]], upside_down: bool) -> list[str]:
    left_out = len(frames) - FRAMES
    more = [f"  … {left_out} more frames"] if left_out > 0 else []
    if upside_down:
        return [line for frame in frames[:FRAMES] for line in frame] + more
    return more + [line for frame in frames[-FRAMES:] for line in frame]
