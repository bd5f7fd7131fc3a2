"""A rank that stands still is told from one that waits for it, and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.trainer.launcher.launching import Start

from finetune_trainer import collectives
from finetune_trainer.hang import Doing, Lead, Sight, Silence, guilty, judge, leader
from finetune_trainer.logs import RankLog
from finetune_trainer.patience import LONG, Patience
from finetune_trainer.rank_process import RankProcess
from finetune_trainer.stacks import LIMIT, keep

WAITING = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/socketserver.py", line 233 in serve_forever

Thread 0x00007f00 (most recent call first):
  File "/opt/venv/torch/distributed/distributed_c10d.py", line 9 in all_reduce
  File "/opt/app/finetune_trainer/gang.py", line 45 in sums
"""
STANDING = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/socketserver.py", line 233 in serve_forever

Current thread 0x00007f00 (most recent call first):
  File "/opt/app/finetune_trainer/prepare/store.py", line 12 in row
  File "/opt/app/finetune_trainer/loop.py", line 140 in train_window
"""

WRITER = """Thread 0x00007f02 (most recent call first):
  File "/opt/app/finetune_trainer/tensor_file.py", line 99 in write
  File "/opt/app/finetune_trainer/flight.py", line 70 in _run

"""
WAITING_FOR_IT = """Current thread 0x00007f00 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1119 in join
  File "/opt/app/finetune_trainer/flight.py", line 50 in wait
  File "/opt/app/finetune_trainer/checkpoint.py", line 140 in finish
"""


@pytest.mark.parametrize(
    ("state", "stacks", "doing", "words"),
    [
        ("S", WRITER + WAITING, Doing.WAITING, "waits for other ranks in all_reduce"),
        ("S", WRITER + STANDING, Doing.UNKNOWN, "stands in row, prepare/store.py:12"),
        (
            "S",
            WRITER + WAITING_FOR_IT,
            Doing.UNKNOWN,
            "stands in write, finetune_trainer/tensor_file.py:99",
        ),
        ("T", "", Doing.STANDING, "SIGSTOP"),
        ("D", "", Doing.STANDING, "disk"),
        ("S", "", Doing.STANDING, "answers no signal"),
        ("S", WAITING, Doing.WAITING, "waits for other ranks in all_reduce"),
        ("R", STANDING, Doing.UNKNOWN, "stands in row, prepare/store.py:12"),
    ],
)
def test_what_a_silent_rank_does(state: str, stacks: str, doing: Doing, words: str) -> None:
    sight = judge(state, stacks)
    assert sight.doing is doing
    assert words in sight.words


BEATS = [
    {"rank": 0, "at": 900.0, "met": 64, "since": 10.0},  # the clock of its node is wrong
    {"rank": 1, "at": 103.0, "met": 64, "since": 13.0},
]
ALIKE, BEHIND, AHEAD = Lead(), Lead(behind=0), Lead(ahead=True)


@pytest.mark.parametrize(
    ("rank", "doing", "times", "lead", "expected"),
    [
        (1, Doing.STANDING, 1.05, ALIKE, True),
        (1, Doing.STANDING, 1.05, AHEAD, True),
        (1, Doing.WAITING, 1.2, ALIKE, False),
        (0, Doing.WAITING, 1.2, ALIKE, False),
        (0, Doing.WAITING, 2.1, ALIKE, True),  # all wait for each other
        (0, Doing.WAITING, 2.1, AHEAD, False),  # not all
        (1, Doing.WAITING, 2.1, ALIKE, False),
        (1, Doing.WAITING, 3.1, AHEAD, True),  # the pod of the other says nothing
        (0, Doing.UNKNOWN, 1.05, ALIKE, False),  # others may not have told yet
        (0, Doing.UNKNOWN, 1.2, ALIKE, True),
        (0, Doing.UNKNOWN, 1.2, AHEAD, False),  # it fell silent first, and waits for rank 1
        (1, Doing.UNKNOWN, 1.2, ALIKE, False),  # rank 0 fell silent before
        (1, Doing.UNKNOWN, 1.05, BEHIND, True),
        (1, Doing.WAITING, 1.2, BEHIND, False),  # in an earlier one: the network may be at fault
    ],
)
def test_whose_fault_it_is(
    rank: int, doing: Doing, times: float, lead: Lead, expected: bool
) -> None:
    silence = Silence(Path(), seconds=times * 10, beat={"patience": 10})
    silence.looks = 1 + (times > 1.1)
    assert guilty(rank, Sight(doing, ""), silence, BEATS, lead) is expected


def silent(rank: int, beats: list[dict[str, Any]]) -> bool:
    """Whether it is ended at the second look, on a line that tells nothing."""
    silence = Silence(Path(), seconds=12, beat={"patience": 10}, looks=2)
    return guilty(rank, Sight(Doing.UNKNOWN, ""), silence, beats, Lead())


@given(
    times=st.lists(st.floats(0, 900), min_size=2, max_size=8),
    skews=st.lists(st.floats(-120, 120), min_size=8, max_size=8),
    late=st.lists(st.floats(0, 0.4), min_size=8, max_size=8),
)
def test_the_first_to_fall_silent_is_named_whatever_the_clocks_say(
    times: list[float], skews: list[float], late: list[float]
) -> None:
    """``times``: seconds after the meeting at which each gave its last sign; ``late``: after the
    others it noted the meeting; ``skews``: of its node's clock."""
    beats = [
        {"rank": rank, "at": 1.7e9 + at + skews[rank], "met": 64, "since": at - late[rank]}
        for rank, at in enumerate(times)
    ]
    first = min(times)
    assert silent(times.index(first), beats)
    for rank, at in enumerate(times):
        if at > first + 2.5:
            assert not silent(rank, beats)


def test_a_rank_that_missed_the_meeting_fell_silent_before() -> None:
    missed = {"rank": 0, "at": 999.0, "met": 0, "since": 700.0}
    came = {"rank": 1, "at": 100.0, "met": 64, "since": 3.0}
    assert silent(0, [missed, came]) and not silent(1, [missed, came])
    starting = [{"rank": rank, "at": 100.0 + rank} for rank in range(2)]
    assert not silent(0, starting), "before they have met nobody can say"
    assert silent(0, [came]), "its signs do not reach the volume"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, Lead()),
        ({0: 9}, Lead()),
        ({1: 7}, Lead()),
        ({1: 7, 0: 7}, Lead()),
        ({1: 7, 0: 8, 2: 9}, Lead(behind=2)),
        ({1: 7, 0: 8, 2: 6}, Lead(behind=0)),
        ({1: 8, 0: 8, 2: 6}, Lead(ahead=True)),
    ],
)
def test_who_is_behind_is_told_by_the_collectives_begun(
    counts: dict[int, int], expected: Lead
) -> None:
    assert leader(1, counts) == expected


def test_a_count_is_void_once_the_rank_gave_another_sign(tmp_path: Path) -> None:
    collectives.share(tmp_path, 0, 41, 100.5)
    collectives.share(tmp_path, 1, 42, 100.0)
    (tmp_path / "collectives-2.json").write_text('{"begun": 4')
    signs = [100.5, 100.0, 99.0, 1.0]
    beats = [{"rank": rank, "at": at} for rank, at in enumerate(signs)]
    assert collectives.shared(tmp_path, beats) == {0: 41, 1: 42}
    assert collectives.shared(tmp_path, [{"rank": 0, "at": 101.5}, *beats[1:]]) == {1: 42}


def test_silence_is_counted_while_the_launcher_is_awake(tmp_path: Path) -> None:
    silence = Silence(tmp_path / "beat.json")
    silence.listen(5)
    assert not silence.calls_for_a_look, "a rank that has not begun is not late"
    silence.path.write_text(json.dumps({"at": 1, "patience": 20}))
    silence.listen(5)
    silence.listen(3600)  # it was stopped itself
    assert silence.seconds == 10 and not silence.calls_for_a_look
    looks = []
    for _ in range(9):
        silence.listen(5)
        if silence.calls_for_a_look:
            silence.looks += 1
            looks.append(silence.seconds)
    assert looks == [25, 30, 35, 45, 55], "at 1, 1.1, 1.5, 2 and 2.5 times"
    silence.path.write_text(json.dumps({"at": 2, "patience": 20}))
    silence.listen(5)
    assert (silence.seconds, silence.looks) == (0, 0)


def test_slow_steps_and_long_phases_have_patience() -> None:
    patience = Patience(300)
    assert patience.of("train") == LONG * 300, "the first step may compile"
    for seconds in (60, 60, 60, 900):
        patience.took(seconds)
    assert patience.of("train") == patience.of("eval") == 600
    assert patience.of("checkpoint") == patience.of("load") == LONG * 300


RANK = """
import faulthandler, json, os, signal, sys, time
rank = int(os.environ["RANK"])
fd = os.open(os.environ["FINETUNE_STACKS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
faulthandler.register(signal.SIGUSR2, fd, all_threads=True)
late = rank == 2 and sys.argv[1] == "stop"  # seen only because the other one is ended
beat = {"phase": "train", "step": 7, "at": time.time(), "patience": 300.0 if late else 3.0}
with open(os.environ["FINETUNE_BEAT"], "w") as file:
    json.dump(beat, file)
if sys.argv[1] == "count":  # as on GPUs: all stand on lines that do not say why
    with open(os.environ["FINETUNE_COLLECTIVES"], "w") as file:
        file.write("118" if rank == 3 else "119")
    def ask_the_device(): time.sleep(200)
    ask_the_device()
wait = compile("def all_reduce(): time.sleep(200)", "torch/distributed/distributed_c10d.py", "exec")
exec(wait)
def read_a_row(): time.sleep(200)
if rank == 2:
    all_reduce()
elif sys.argv[1] == "stop":
    os.kill(os.getpid(), signal.SIGSTOP)
else:
    read_a_row()
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("stop", "is stopped"),
        ("stand", "stands in read_a_row"),
        ("count", "and has not begun the collective in which rank 2 waits"),
    ],
)
def test_the_rank_that_stands_still_ends_the_pod_and_is_named(
    start: Start,
    tmp_path: Path,
    how: str,
    words: str,
) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    run = start(
        f"exec {sys.executable} rank.py {how}", JOB_COMPLETION_INDEX="1", LOOK_SECONDS="0.3"
    )
    assert run.end(timeout=100) == 76
    failure: dict[str, Any] = run.message["failure"]
    assert (failure["class"], failure["rank"], failure["step"]) == ("Hang", 3, 7)
    assert words in failure["message"]
    assert "spec.recovery.hangAfterSeconds" in failure["hint"]
    logs = tmp_path / "attempts/2/logs"
    kept = {rank: (logs / f"rank-{rank}.stacks").read_text() for rank in (2, 3)}
    if how != "stop":
        assert ("ask_the_device" if how == "count" else "read_a_row") in kept[3]
    assert "in phase train after step 7: the rank " in kept[3]
    assert ("ask_the_device" if how == "count" else "all_reduce") in kept[2], "of the others too"
    output = run.output.decode()
    if how == "stand":
        assert "it waits for other ranks in all_reduce" in output
        assert "in read_a_row\n" in output, "the stacks stand in the log"


def test_a_volume_that_hangs_keeps_no_launcher_from_speaking(start: Start, tmp_path: Path) -> None:
    """Nobody reads or writes these pipes: whoever opens one waits, as on a dead file server."""
    (tmp_path / "rank.py").write_text(RANK)
    folder = tmp_path / "attempts/2"
    for place in ("heartbeats/rank-0.json", "logs/rank-3.stacks"):
        (folder / place).parent.mkdir(parents=True)
        os.mkfifo(folder / place)
    often = {"LOOK_SECONDS": "0.3", "VOLUME_SECONDS": "0.5"}
    run = start(f"exec {sys.executable} rank.py stand", JOB_COMPLETION_INDEX="1", **often)
    assert run.end(timeout=100) == 76
    failure: dict[str, Any] = run.message["failure"]
    assert (failure["class"], failure["rank"], failure["step"]) == ("Hang", 3, 7)
    assert "read_a_row" in failure["message"]
    assert "the volume did not answer either" in failure["message"]
    assert b"the volume: no answer within" in run.output


def test_kept_stacks_are_bounded_and_hold_no_secret(tmp_path: Path) -> None:
    source = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    assert source.stdout is not None
    log = RankLog(source.stdout, rank=0, path=tmp_path / "rank-0.log", limit=9)
    silence = Silence(tmp_path / "beat", seconds=9, beat={"phase": "eval", "step": 4})
    record, stacks, begun = (tmp_path / name for name in ("record", "stacks", "collectives"))
    rank = RankProcess(0, 0, source, log, record, silence, stacks, begun)
    source.wait()
    for number in range(30):
        keep(tmp_path, rank, f"look {number}", "x" * 10**6 + " hf_" + "abcdefghij" * 3)
    older, newest = (tmp_path / f"rank-0.stacks{end}" for end in (".1", ""))
    assert max(older.stat().st_size, newest.stat().st_size) <= LIMIT
    assert "after step 4: the rank look 29\n" in newest.read_text()
    assert "hf_abc" not in newest.read_text() + older.read_text()
    keep(tmp_path / "rank-0.log" / "none", rank, "on a volume that is not there", "")
