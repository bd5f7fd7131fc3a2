"""Ranks that stand still: noticed by the launcher of their pod and told by their stacks.

One rank that stands still stops all others in their next collective. So silence does not say whose
fault it is: what a rank is doing does, how many collectives it has begun, and who fell silent
first.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

AWAKE_SECONDS = 10.0
"""Longest time between two looks that counts: a launcher that was stopped itself saw nothing."""
EARLIER_SECONDS = 2.0
"""So much later another rank must have fallen silent to be innocent: signs are told once a
second."""
_COLLECTIVE = ("torch/distributed/distributed_c10d.py", "deepspeed/comm/")
_WAITS_FOR_WRITER, _WRITER = "finetune_trainer/checkpoint.py", "finetune_trainer/tensor_file.py"
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)$')


@dataclass
class Silence:
    """How long a rank has given no new sign, counted while this process was awake."""

    path: Path
    """Where the rank replaces its last sign; on the pod's own disk, which does not hang."""
    seconds: float = 0.0
    beat: Mapping[str, Any] = field(default_factory=dict)
    looks: int = 0
    """How often the rank was looked at in this silence."""
    _known: bytes = b""

    def listen(self, passed: float) -> None:
        """``passed``: seconds since the last time."""
        self.seconds += min(passed, AWAKE_SECONDS)
        try:
            content = self.path.read_bytes()
            if content != self._known:
                self.beat, self._known = json.loads(content), content
                self.seconds, self.looks = 0.0, 0
        except (OSError, ValueError):
            return  # nothing yet, or no room to write

    @property
    def times(self) -> float:
        """In units of the patience that the rank asked for; 0 before its first sign."""
        return self.seconds / float(self.beat["patience"]) if self.beat else 0.0

    @property
    def calls_for_a_look(self) -> bool:
        """At one, 1.1, one and a half, two, … times the patience."""
        return self.times > (1 + self.looks / 10 if self.looks < 2 else (self.looks + 1) / 2)


class Doing(Enum):
    STANDING = "by itself"
    WAITING = "for other ranks"
    UNKNOWN = "on a line that may wait for others or not"


class Sight(NamedTuple):
    """What a silent rank was seen doing."""

    doing: Doing
    words: str
    """After "the rank"."""


def judge(state: str, stacks: str) -> Sight:
    """``state``: the letter of ``/proc/<pid>/stat``. ``stacks``: what faulthandler wrote of all
    threads when asked to, the main one last, or nothing."""
    if state in ("T", "t"):
        return Sight(Doing.STANDING, "is stopped: somebody sent it SIGSTOP, or a debugger holds it")
    frames = list(_frames(stacks))
    if not frames:
        what = "waits for a disk or a device" if state == "D" else "answers no signal"
        return Sight(Doing.STANDING, what)
    for file, _, name in frames:
        if any(part in file for part in _COLLECTIVE):
            return Sight(Doing.WAITING, f"waits for other ranks in {name}")
    file, line, name = _standing(stacks)
    return Sight(Doing.UNKNOWN, f"stands in {name}, {'/'.join(Path(file).parts[-2:])}:{line}")


class Lead(NamedTuple):
    """Where a rank stands among those that are silent, by the collectives that each has begun."""

    behind: int | None = None
    """A rank that has begun one which this rank has not."""
    ahead: bool = False
    """Others have not begun one that this rank has."""


def leader(rank: int, counts: Mapping[int, int]) -> Lead:
    """``counts``: collectives begun, of the ranks that have told."""
    if rank not in counts:
        return Lead()
    own = counts[rank]
    farthest = max(counts, key=lambda other: counts[other])
    if counts[farthest] > own:
        return Lead(behind=farthest)
    return Lead(ahead=min(counts.values()) < own)


def guilty(
    rank: int, sight: Sight, silence: Silence, beats: Iterable[Mapping[str, Any]], lead: Lead
) -> bool:
    """Whether the gang ends because of this rank.

    ``beats``: the last signs of all ranks. A rank that has not begun a collective in which another
    one waits is guilty, unless it is seen waiting in an earlier one, and the other one is not.
    Where that is not known, a rank that cannot be seen waiting is guilty at the second look, if it
    fell silent first: until then the launchers of other pods have told what they know. Where all
    seem to wait for each other, it is said of rank 0 after twice the patience, and of any rank
    after three times, because the pod of rank 0 may not be able to say anything.
    """
    if sight.doing is Doing.STANDING or silence.times > 3:
        return True
    if lead.behind is not None and sight.doing is Doing.UNKNOWN:
        return True
    if lead.ahead:
        return False
    if silence.times > 2 and rank == 0:
        return True
    late = sight.doing is Doing.UNKNOWN and silence.looks > 1
    return late and _fell_silent_first(rank, beats)


def hang_failure(silence: Silence, sight: Sight, lead: Lead) -> dict[str, Any]:
    """The failure of a rank that was ended for it."""
    phase, step = silence.beat.get("phase"), silence.beat.get("step", 0)
    where = (
        ""
        if lead.behind is None
        else (f", and has not begun the collective in which rank {lead.behind} waits")
    )
    return {
        "class": "Hang",
        "message": f"no sign of life for {silence.seconds:.0f} s in phase {phase} after step "
        f"{step}: the rank {sight.words}{where}",
        "hint": "rank-<n>.stacks beside its log (status.logs) holds the stacks of its threads; if "
        "this was work, raise spec.recovery.hangAfterSeconds",
        "step": step,
        "at": round(time.time(), 3),
    }


def process_state(pid: int) -> str:
    """The letter of ``/proc/<pid>/stat``; empty: there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def _standing(stacks: str) -> tuple[str, str, str]:
    """Where the main thread stands; where it waits for the writer of a checkpoint, that one."""
    threads = [list(_frames(part)) for part in stacks.split("\n\n")]
    *others, main = filter(None, threads)
    if any(file.endswith(_WAITS_FOR_WRITER) for file, _, _ in main):
        for frames in others:
            if any(file.endswith(_WRITER) for file, _, _ in frames):
                return frames[0]
    return main[0]


def _fell_silent_first(rank: int, beats: Iterable[Mapping[str, Any]]) -> bool:
    """By the time that each gave its last sign after they had met, on its own clock: those of other
    nodes may be wrong by minutes. A rank that missed the last meeting fell silent before it."""
    by_rank = {int(beat["rank"]): beat for beat in beats}
    beat = by_rank.pop(rank, None)
    if beat is None:
        return True
    own = _last_sign(beat)
    if own is None:
        return False
    others = [other for other in map(_last_sign, by_rank.values()) if other is not None]
    return all(
        own.met < other.met
        or (own.met == other.met and own.seconds < other.seconds + EARLIER_SECONDS)
        for other in others
    )


class _LastSign(NamedTuple):
    met: int
    """Step after which the rank had last met the others."""
    seconds: float
    """After that."""


def _last_sign(beat: Mapping[str, Any]) -> _LastSign | None:
    """None: it had not met the others yet."""
    return _LastSign(int(beat["met"]), float(beat["since"])) if "met" in beat else None


def _frames(stacks: str) -> Iterator[tuple[str, str, str]]:
    """File, line and function of each frame, innermost first within a thread."""
    for text in stacks.splitlines():
        if frame := _FRAME.match(text):
            yield frame["file"], frame["line"], frame["name"]
