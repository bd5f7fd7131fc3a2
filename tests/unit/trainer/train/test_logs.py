"""Bounded logs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from secrets_cases import SECRET

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


def test_no_secret_passes_from_a_rank_to_the_pods_log_or_the_volume(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    said = f"token hf_{SECRET}\n{key}done\n".encode()
    log = RankLog(io.BytesIO(said), rank=0, path=tmp_path / "x.log", limit=10**6)
    log.drain(5)
    mark = "[redacted]"
    assert log.recent == [f"token {mark}", mark, mark, mark, "done"]
    assert SECRET.encode() not in capfdbinary.readouterr().out
    assert SECRET not in (tmp_path / "x.log").read_text()


def test_bytes_that_are_no_text_come_through_unchanged(tmp_path: Path) -> None:
    log = RankLog(io.BytesIO(b"\xff\xfe\x00x \n"), rank=0, path=tmp_path / "x.log", limit=100)
    log.drain(5)
    assert (tmp_path / "x.log").read_bytes() == b"\xff\xfe\x00x \n"


PRINTS = """
import logging, sys
from finetune_trainer.logs import configure, redact_streams
redact_streams()
configure()
print("printed", sys.argv[1])
sys.stderr.write("written " + sys.argv[1] + "\\n")
logging.getLogger("x").warning("logged %s", sys.argv[1])
raise ValueError(sys.argv[1])
"""


def test_no_secret_passes_from_a_stage_to_its_log() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, f"hf_{SECRET}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "printed [redacted]" in done.stdout
    assert "WARNING x: logged [redacted]" in done.stdout
    assert "written [redacted]" in done.stderr
    assert "ValueError: [redacted]" in done.stderr
    assert SECRET not in done.stdout + done.stderr
