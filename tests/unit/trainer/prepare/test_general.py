"""Rows for what the model could do before: read, cleaned, packed apart, never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model
from unit.trainer.prepare.cleaned import clean_rows
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer.errors import BadData
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.store import PackedDataset


def pair(prompt: str, response: str) -> dict[str, Any]:
    return {"prompt": prompt, "response": response}


TRAIN = [pair(f"What is {n}?", f"It is number {n}, as everybody knows.") for n in range(4)]
GENERAL = [pair("Who sings?", "A bird in the morning."), pair("Why?", "Because of the weather.")]


def source(path: Path, number: int, part: str) -> dict[str, str]:
    return {"name": path.stem, "field": f"spec.data.{part}[{number}]", "path": str(path)}


def test_general_rows_are_packed_apart_and_counted(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(12)])
    small = write(tmp_path / "small.jsonl", [chat(n, "Yes.") for n in range(100, 103)])
    large = write(tmp_path / "large.jsonl", [*(chat(n, "No.") for n in range(200, 209)), "{"])
    general = [source(small, 0, "general"), source(large, 1, "general")]
    wanted = config(model, train, general=general, expect={"maxBrokenFraction": 0.2})

    data = stage.run(wanted, tmp_path / "ws")["data"]

    assert (data["generalRows"], data["rows"]) == (12, 12)
    rows = PackedDataset(tmp_path / "ws/data/general")
    assert rows.num_tokens == data["generalTokens"]
    assert rows.row_sources is not None and set(rows.row_sources) == {0, 1}
    first = sum(rows.row(n).num_supervised for n in range(len(rows)) if rows.row_sources[n] == 0)
    alone = stage.run(config(model, small, evalFraction=0), tmp_path / "alone")["data"]
    assert first == alone["supervisedTokens"]
    assert PackedDataset(tmp_path / "ws/data/train").row_sources is None
    assert data["sources"][-1] | {"decided": ""} == {
        "field": "spec.data.general[1]", "format": "Chat", "decided": "",
        "rows": 10, "kept": 9, "dropped": {"brokenRows": 1},
    }  # fmt: skip
    report = json.loads((tmp_path / "ws/data/report.json").read_text())
    assert (report["volume"]["general"], report["volume"]["generalRowsInTrain"]) == (12, 0)
    assert "general rows, only scored" in (tmp_path / "ws/data/report.html").read_text()


def test_other_general_rows_are_other_data(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    train = write(tmp_path / "train.jsonl", [chat(n) for n in range(12)])
    general = write(tmp_path / "general.jsonl", [chat(100)])
    without = stage.run(config(model, train), tmp_path / "ws")["data"]["digest"]
    wanted = config(model, train, general=[source(general, 0, "general")])
    one = stage.run(wanted, tmp_path / "ws")["data"]["digest"]
    write(general, [chat(101)])
    other = stage.run(wanted, tmp_path / "ws")["data"]["digest"]
    assert len({without, one, other}) == 3


def test_a_training_row_that_is_a_general_one_is_a_leak(tmp_path: Path) -> None:
    cleaned = clean_rows(tmp_path, [*TRAIN, GENERAL[1]], [pair("Who?", "Me.")], GENERAL)
    assert cleaned.lines("evalLeakage") == [5]
    assert (cleaned.leaked, cleaned.general_leaked, len(cleaned.train)) == (0, 1, 5)
    assert "the same as general.jsonl line 2" in cleaned.rejects[0]["reason"]


@pytest.mark.parametrize("held", [None, [pair("Who?", "Me.")]])
def test_a_dropped_leak_leaves_the_general_rows_as_they_are(
    tmp_path: Path, held: list[Any] | None
) -> None:
    policy = {"evalLeakage": "Drop"}
    cleaned = clean_rows(tmp_path, [*TRAIN, *GENERAL], held, GENERAL, cleaning=policy)
    assert [len(cleaned.train), len(cleaned.general)] == [4, 2]
    assert cleaned.general_leaked == 0


def test_general_rows_equal_to_train_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"maxLeakedFraction: 2 of 2 general rows are training rows"):
        clean_rows(tmp_path, [*TRAIN, *GENERAL], None, GENERAL)
