"""How a stage ends: the termination message, result files and exit codes."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from finetune_trainer import __main__ as entry
from finetune_trainer import export, outcome
from finetune_trainer.config import ConfigError
from finetune_trainer.errors import BadData, StageError, failure_class
from finetune_trainer.signatures.signature import MAX_LINES

RUN = {
    "job": {"namespace": "team", "name": "bot", "uid": "u"},
    "model": {"path": "/nowhere/model"},
    "data": {"train": [], "sequenceLength": 64},
    "method": {},
    "training": {"epochs": 1, "microBatchSize": 1, "accumulation": 1, "learningRate": 0.1},
    "zeroStage": 0,
    "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
}


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [
        (BadData("x"), "BadData", 65),
        (StageError("x"), "Internal", 70),
        (ConfigError("x"), "ConfigInvalid", 64),
        (OSError(errno.ENOSPC, "full"), "DiskFull", 73),
        (OSError(errno.EIO, "broken"), "Internal", 70),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "DiskFull", 73),
        (SafetensorError("I/O error: Input/output error (os error 5)"), "HardwareFault", 77),
        (SafetensorError("I/O error: Bad file descriptor (os error 9)"), "Internal", 70),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), "CudaOom", 71),
        (KeyError("x"), "Internal", 70),
    ],
)
def test_every_error_has_a_class_and_a_code(error: Exception, name: str, code: int) -> None:
    assert (failure_class(error).name, failure_class(error).exit_code) == (name, code)


def test_a_failure_tells_what_and_what_to_do() -> None:
    error = BadData("train.jsonl line 17: empty", "fill it")
    record = outcome.failed("prepare", 2, error, ["one", "two"])
    failure = record["failure"]
    assert (record["stage"], record["attempt"], record["outcome"]) == ("prepare", 2, "failed")
    assert (failure["class"], failure["exitCode"]) == ("BadData", 65)
    assert (failure["message"], failure["hint"]) == ("train.jsonl line 17: empty", "fill it")
    assert failure["lines"] == ["one", "two"]


def test_a_full_disk_names_the_field_that_asks_for_the_space() -> None:
    failure = outcome.failure_record(OSError(errno.ENOSPC, "full", "/workspace/model"))
    assert failure["message"].startswith("no space is left on the claim of spec.storage: ")
    assert "/workspace/model" in failure["message"]


def test_a_full_output_is_not_taken_for_the_work_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(export, "run", full)
    run = {**RUN, "output": {"external": True}}
    variables = {**environment(tmp_path, run), "FINETUNE_TRAIN_ATTEMPT": "0"}
    assert entry.main(["export"], variables) == 73
    failure = json.loads((tmp_path / "termination").read_text())["failure"]
    assert failure["message"] == "no space is left on the claim of spec.output.uri: [Errno 28] full"


def test_an_unforeseen_error_carries_its_traceback() -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        failure = outcome.failure_record(error)
    assert failure["message"] == "KeyError: 'lost'"
    assert any("raise KeyError" in line for line in failure["lines"])


HUGE: list[dict[str, Any]] = [
    outcome.failed("train", 0, BadData("m" * 5000, "h" * 5000), ["l" * 5000] * 50),
    outcome.failed("train", 0, BadData("你" * 3000), ["🙂" * 400] * 50),
    outcome.succeeded("train", 0, checkpoints=[{"step": n} for n in range(2000)]),
    outcome.succeeded("prepare", 0, data={"rows": 9, "sources": [{"decided": "c" * 99}] * 99}),
    outcome.succeeded("train", 0, surprise=list(range(5000))),
]


@pytest.mark.parametrize("content", HUGE)
def test_a_termination_message_always_fits_and_stays_json(content: dict[str, Any]) -> None:
    encoded = outcome.encode(content)
    assert len(encoded) < 3000
    decoded = json.loads(encoded)
    assert decoded["outcome"] == content["outcome"]
    if "failure" in content:
        assert decoded["failure"]["class"] == "BadData"


def test_counts_and_warnings_of_the_data_survive_its_sources() -> None:
    data = {"rows": 9, "warnings": ["w" * 160] * 6, "sources": [{"decided": "c" * 99}] * 99}
    assert json.loads(outcome.encode(outcome.succeeded("prepare", 0, data=data)))["data"] == {
        "rows": 9,
        "warnings": ["w" * 160] * 6,
    }
    data["warnings"] = ["w" * 160] * 60
    assert json.loads(outcome.encode(outcome.succeeded("prepare", 0, data=data)))["data"] == {
        "rows": 9
    }


def test_the_totals_survive_the_scores_of_each_source() -> None:
    each = {"role": "Eval", "tokens": 10**6, "loss": 1.23456, "perplexity": 3.4368}
    many = [
        {**each, "name": f"{n}" + "x" * 62, "baseline": {"loss": 2.34567, "perplexity": 10.4397}}
        for n in range(16)
    ]
    numbers = {"evalLoss": 1.3, "generalLoss": 2.2, "datasets": many}
    for words in (
        outcome.succeeded("train", 0, metrics=numbers, checkpoints=[{"step": 5}]),
        outcome.succeeded("export", 0, train={"metrics": numbers}, artifact={"digest": "x"}),
    ):
        told = json.loads(outcome.encode(words))
        kept = told.get("metrics") or told["train"]["metrics"]
        assert (kept["evalLoss"], kept["generalLoss"]) == (1.3, 2.2)
        assert 0 < len(kept["datasets"]) < 16 and kept["datasets"] == many[: len(kept["datasets"])]


def test_the_newest_lines_survive_the_cut() -> None:
    content = outcome.failed(
        "train", 0, BadData("m"), [f"{n} " + chr(97 + n) * 290 for n in range(20)]
    )
    lines = json.loads(outcome.encode(content))["failure"]["lines"]
    assert lines[-1].startswith("19 ")
    assert 5 < len(lines) < 20


def test_a_volume_that_is_gone_does_not_hide_the_outcome(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = outcome.succeeded("export", 0)
    outcome.report(result, tmp_path / "file" / "export.json", tmp_path / "termination")
    assert json.loads((tmp_path / "termination").read_text()) == result


def test_no_word_of_an_outcome_is_half_of_a_character(tmp_path: Path) -> None:
    error = BadData("r\udce9ponse is no column", "its columns are \ud83d")
    outcome.report(outcome.failed("prepare", 0, error, ["\ud83d"]), None, tmp_path / "termination")
    failure = json.loads((tmp_path / "termination").read_text())["failure"]
    assert failure["message"] == r"r\udce9ponse is no column"
    assert failure["hint"] == r"its columns are \ud83d"
    assert failure["lines"] == [r"\ud83d"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    outcome.write_json(path, {"n": 1})
    first = path.stat().st_ino
    outcome.write_json(path, {"n": 2})
    assert path.stat().st_ino != first
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_recent_lines_are_the_last_ones() -> None:
    recent = outcome.RecentLines()
    for n in range(1000):
        recent.emit(logging.LogRecord("x", logging.INFO, "", 0, f"line {n}", None, None))
    assert recent.lines[-1] == "line 999"
    assert len(recent.lines) == MAX_LINES


def environment(folder: Path, run: object) -> dict[str, str]:
    (folder / "run.json").write_text(run if isinstance(run, str) else json.dumps(run))
    return {
        "FINETUNE_RUN_JSON": str(folder / "run.json"),
        "FINETUNE_WORKSPACE": str(folder / "ws"),
        "FINETUNE_TERMINATION_LOG": str(folder / "termination"),
        "FINETUNE_ATTEMPT": "3",
    }


@pytest.mark.parametrize(
    ("run", "code", "says"),
    [
        ("{", 64, "run.json"),
        ({**RUN, "colour": "red"}, 64, "colour: Extra inputs are not permitted"),
        (RUN, 66, "spec.model.uri: nothing at model"),
    ],
)
def test_a_stage_that_fails_says_so_everywhere(
    tmp_path: Path, run: object, code: int, says: str
) -> None:
    assert entry.main(["prepare"], environment(tmp_path, run)) == code
    message = json.loads((tmp_path / "termination").read_text())
    assert message == json.loads((tmp_path / "ws/prepare.json").read_text())
    assert (message["attempt"], message["failure"]["exitCode"]) == (3, code)
    assert says in message["failure"]["message"]


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["bake"], {}) == 64
    assert "prepare|train|export|answer" in capsys.readouterr().err
