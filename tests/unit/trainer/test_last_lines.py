"""What status shows of a log: the lines that say something."""

from __future__ import annotations

import pytest

from finetune_trainer.last_lines import FRAMES, MAX_LINE, MAX_LINES, last_lines


def traceback(frames: int, error: str = "ValueError: no") -> list[str]:
    calls = [
        line
        for n in range(frames)
        for line in (f'  File "/app/x.py", line {n}, in f{n}', f"    call_{n}()", "    ^^^^^^^^")
    ]
    return ["Traceback (most recent call last):", *calls, error]


def test_a_traceback_keeps_its_end() -> None:
    assert last_lines(traceback(9)) == [
        f"  … {9 - FRAMES} more frames",
        *(
            line
            for n in range(9 - FRAMES, 9)
            for line in (f'  File "/app/x.py", line {n}, in f{n}', f"    call_{n}()")
        ),
        "ValueError: no",
    ]


def test_a_short_traceback_is_whole() -> None:
    assert last_lines(traceback(2))[0] == '  File "/app/x.py", line 0, in f0'
    assert not any("more frames" in line for line in last_lines(traceback(FRAMES)))


def test_a_stack_of_faulthandler_keeps_its_beginning() -> None:
    stack = [f'  File "/app/x.py", line {n} in f{n}' for n in range(9)]
    lines = ["Fatal Python error: Bus error", "", "Thread 0x7f (most recent call first):", *stack]
    shown = last_lines([*lines, "", "Extension modules: numpy._core (total: 1)"])
    assert shown == [lines[0], lines[2], *stack[:FRAMES], f"  … {9 - FRAMES} more frames"]


@pytest.mark.parametrize(
    "noise",
    [
        "",
        "   ^^^^^~~~~",
        "Loading checkpoint shards:  43%|####3     | 3/7 [00:08<00:10,  2.71s/it]",
        "/opt/x.py:110: FutureWarning: use y",
        "  warnings.warn(",
        "frame #3: c10::Error::Error() + 0x96 (0x7f in /opt/libc10.so)",
        "Exception raised from checkTimeout at ../torch/x.cpp:609 (most recent call first):",
        "node-1:17:98 [0] NCCL INFO Connected all trees",
        "[2026-11-23 12:00:02,000] [INFO] [config.py:1003:print]   train_batch_size .. 64",
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
        "INFO finetune_trainer.reporter: step 10 of 90",
        "2026-11-23 12:00:01,001 INFO finetune_trainer.reporter: step 10 of 90",
    ],
)
def test_noise_is_left_out(noise: str) -> None:
    assert last_lines([noise, "the last words", noise]) == ["the last words"]


def test_routine_is_shown_where_nothing_else_was_said() -> None:
    line = "2026-11-23 12:00:01,001 INFO finetune_trainer.reporter: step 10 of 90"
    assert last_lines([line]) == [line]


def test_colours_progress_and_the_rank_are_taken_off() -> None:
    lines = ["\x1b[31m[rank3]: broken\x1b[0m", "1%\r50%\rdone"]
    assert last_lines(lines) == ["broken", "done"]


def test_a_line_that_repeats_stands_once_at_its_last_place() -> None:
    lines = ["WARN port 4001 busy", "other", "WARN port 4002 busy", "WARN port 4003 busy", "end"]
    assert last_lines(lines) == ["other", "WARN port 4003 busy (×3)", "end"]


def test_what_other_ranks_said_too_stands_once_with_their_number() -> None:
    own = ["RuntimeError: Connection closed by peer [10.0.0.1]:4242", "only rank 0 said this"]
    other = ["[rank1]: RuntimeError: Connection closed by peer [10.0.0.1]:5151"]
    assert last_lines(own, [other] * 7) == [f"{own[0]} (×8 ranks)", own[1]]
    assert last_lines([own[0]] * 2, [other]) == [f"{own[0]} (×2, ×2 ranks)"]


def test_it_is_bounded() -> None:
    shown = last_lines([f"{'x' * 5000} {chr(97 + n % 26)}{'y' * (n + 1)}" for n in range(100)])
    assert len(shown) == 1, "they differ only behind the cut"
    shown = last_lines([f"line {'abcdefghij'[n % 10] * (n + 1)}" * 20 for n in range(100)])
    assert len(shown) == MAX_LINES
    assert all(len(line) <= MAX_LINE for line in shown)
    assert shown[-1].startswith("line jjj")
