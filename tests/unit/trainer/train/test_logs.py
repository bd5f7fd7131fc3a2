"""Bounded logs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from finetune_trainer.logs import LINE_LIMIT, RankLog, RotatingFile


def test_a_file_and_its_predecessor_stay_within_the_limit_and_keep_the_newest_lines(
    tmp_path: Path,
) -> None:
    file = RotatingFile(tmp_path / "rank-0.log", limit=100)
    for number in range(50):
        file.write(b"line %04d\n" % number)
    file.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"rank-0.log", "rank-0.log.1"}
    assert all(size <= 100 for size in sizes.values())
    kept = (tmp_path / "rank-0.log.1").read_text() + (tmp_path / "rank-0.log").read_text()
    numbers = [int(line.split()[1]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 50))
    assert len(numbers) >= 10


def test_a_volume_that_cannot_be_written_does_not_stop_the_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "file").write_text("")
    log = RankLog(io.BytesIO(b"one\ntwo"), rank=3, path=tmp_path / "file" / "x.log", limit=100)
    log.drain(5)
    assert log.recent == ["one", "two"]
    assert capfdbinary.readouterr().out == b"[rank 3] one\n[rank 3] two\n"


def test_an_endless_line_is_cut_into_pieces(tmp_path: Path) -> None:
    log = RankLog(
        io.BytesIO(b"x" * (LINE_LIMIT * 2 + 1)), rank=0, path=tmp_path / "x.log", limit=10**6
    )
    log.drain(5)
    assert [len(line) for line in log.recent] == [LINE_LIMIT, LINE_LIMIT, 1]
