"""Rows go out to a container of the user as JSON lines, and what came back is prepared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer import __main__ as entry
from finetune_trainer.config import RunConfig
from finetune_trainer.errors import BadData
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.augment import fetch_rows
from finetune_trainer.prepare.content import own_digest

IMAGE = {"image": "example.test/paraphrase:1"}


def wanted(model: Path, train: Path, **data: Any) -> RunConfig:
    return config(model, train, augment=IMAGE, **{"evalFraction": 0, **data})


def doubled(folder: Path) -> None:
    """What the container does: each row, and the same once more in capitals."""
    for path in sorted((folder / "in").iterdir()):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        more = [json.loads(json.dumps(row).replace("gang", "GANG")) for row in rows]
        write(folder / "out" / path.name, [*rows, *more])


def prepared(job: RunConfig, workspace: Path, attempt: int = 0) -> dict[str, Any]:
    folder = workspace / "augment" / str(attempt)
    fetch_rows(job.data, folder)
    doubled(folder)
    found: dict[str, Any] = stage.run(job, workspace, folder)["data"]
    return found


def test_rows_that_came_back_are_cleaned_and_all_are_accounted_for(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    rows = [*(chat(n, "A gang.") for n in range(10)), chat(3, "A gang."), "{"]
    train = write(tmp_path / "train.jsonl", [row for row in rows if row != "{"])
    train.write_text(train.read_text() + "{ broken\n")
    job = wanted(model, train, expect={"maxBrokenFraction": 0.2})
    data = prepared(job, tmp_path / "ws")
    assert data["augment"] == {"rowsIn": 11, "rowsOut": 22}
    assert data["rows"] == 23 == data["kept"] + sum(data["dropped"].values())
    assert data["dropped"] == {"brokenRows": 1, "exactDuplicates": 2}
    rejects = (tmp_path / "ws/data/rejects.jsonl").read_text().splitlines()
    broken = next(each for each in map(json.loads, rejects) if each["rule"] == "brokenRows")
    assert broken["file"].startswith("train.jsonl") or "train.jsonl" in json.dumps(broken)
    assert not (tmp_path / "ws/augment").exists()


def test_the_same_rows_are_the_same_data_whenever_they_came_back(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    train = write(tmp_path / "train.jsonl", [chat(n, "A gang.") for n in range(10)])
    first = prepared(wanted(model, train), tmp_path / "ws")
    marks = {p: p.stat().st_ino for p in (tmp_path / "ws/data").rglob("*")}
    assert prepared(wanted(model, train), tmp_path / "ws", attempt=1) == first
    assert {p: p.stat().st_ino for p in (tmp_path / "ws/data").rglob("*")} == marks
    other = wanted(model, train)
    args = other.data.augment and other.data.augment.model_copy(update={"args": ("--more",)})
    data = other.data.model_copy(update={"augment": args})
    assert own_digest(other, {"digest": "m"}) != own_digest(
        other.model_copy(update={"data": data}), {"digest": "m"}
    )


def test_rows_of_any_kind_go_out_as_json_in_the_columns_of_their_source(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["question", "answer"], ["Was?", "Ein Rudel: „ja“"]])
    job = wanted(tmp_path, path)
    assert fetch_rows(job.data, tmp_path / "augment") == {"rowsIn": 1}
    line = (tmp_path / "augment/in/facts.jsonl").read_text()
    assert json.loads(line) == {"question": "Was?", "answer": "Ein Rudel: „ja“"}


@pytest.mark.parametrize("what", ["nothing", "empty", "link"])
def test_a_source_without_rows_is_named(tmp_path: Path, what: str) -> None:
    model = save_tiny_model(tmp_path / "model")
    job = wanted(model, write(tmp_path / "train.jsonl", [chat(n) for n in range(4)]))
    folder = tmp_path / "ws/augment/0"
    fetch_rows(job.data, folder)
    out = folder / "out/facts.jsonl"
    if what == "empty":
        out.touch()
    if what == "link":
        out.symlink_to(tmp_path / "train.jsonl")
    with pytest.raises(BadData, match=r"spec.data.augment: the container wrote no rows to facts"):
        stage.run(job, tmp_path / "ws", folder)


def test_the_beginning_of_prepare_is_told_as_prepare(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    job = wanted(model, tmp_path / "absent.jsonl")
    (tmp_path / "run.json").write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    env = {
        "FINETUNE_RUN_JSON": str(tmp_path / "run.json"),
        "FINETUNE_WORKSPACE": str(tmp_path / "ws"),
        "FINETUNE_TERMINATION_LOG": str(tmp_path / "termination"),
        "FINETUNE_AUGMENTED": str(tmp_path / "ws/augment/0"),
    }
    assert entry.main(["fetch"], env) != 0
    told = json.loads((tmp_path / "termination").read_text())
    assert (told["stage"], told["failure"]["class"]) == ("prepare", "BadData")
    write(tmp_path / "absent.jsonl", [chat(1)])
    assert entry.main(["fetch"], env) == 0
