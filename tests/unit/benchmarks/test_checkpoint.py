"""The stall of training, from a run's own lines."""

from __future__ import annotations

import pytest

from benchmarks.checkpoint import Save, lines_of_peer, saves
from benchmarks.checkpoint_section import PEER, text


def test_the_stall_is_what_the_steps_after_a_save_took_longer() -> None:
    took = {1: 9.0, 2: 5.0, 3: 2.0, 4: 2.2, 5: 3.5, 6: 2.4, 7: 2.0, 8: 2.2, 9: 7.0}
    ended = {step: sum(took[n] for n in range(1, step + 1)) for step in took}
    lines: list[dict[str, float]] = [
        {"step": step, "at": at, "computeSeconds": 1.0} for step, at in ended.items()
    ]
    told = {"checkpointBytes": 100, "seconds": 4.0, "stallSeconds": 0.5}
    lines += [
        {"step": 4, "at": ended[5] + 1, **told},  # during step 6
        {"step": 8, "at": ended[9], **told},  # and nothing to compare it with
    ]
    (found,) = saves(lines, every=4)

    calm = 2.1  # of steps 3, 4, 7 and 8
    assert (found.step, found.bytes) == (4, 100)
    assert found.stall == pytest.approx(3.5 + 2.4 + 2.0 + 2.2 - 4 * calm)
    assert (found.stood_still, found.seconds) == (0.5, 4.0)


def test_the_table_compares_medians() -> None:
    blocking = [Save(4, 1_600_000_000, stall, stall, stall) for stall in (4.0, 5.0, 9.0)]
    beside = [Save(4, 1_600_000_000, stall, 0.2, 8.0) for stall in (1.0, 0.5, 2.0)]
    peer = [Save(4, 2_200_000_000, 2.5, 2.5, 2.5)]
    told = text({"blocking": blocking, "asynchronous": beside, PEER: peer})
    assert "| blocking | 3 | 5.00 s (4.00–9.00) | 5.00 s | 5.00 s |" in told
    assert "| asynchronous | 3 | 1.00 s (0.50–2.00) | 0.20 s | 8.00 s |" in told
    assert f"| {PEER} | 1 | 2.50 s (2.50–2.50) | 2.50 s | 2.50 s |" in told
    assert "Trainer's: **0.40**" in told
    assert "blocking way 0.20, which is 2.00 of the Trainer's" in told
    assert "1.60 GB" in told and "2.20 GB" in told


def test_what_a_peer_told_is_read_in_the_same_way() -> None:
    ended = [9.0, 14.0, 16.0, 18.2, 23.2, 25.2]
    told = {
        "ended": ended,
        "seconds": [1.0] * 6,
        "saved": [{"step": 4, "at": 21.2, "seconds": 3.0, "bytes": 7}],
    }
    assert saves(lines_of_peer(told), every=2) == [
        Save(4, 7, pytest.approx(5.0 + 2.0 - 2 * 2.0), 3.0, 3.0)
    ]
