"""Jobs of a namespace take each other's prepared data, and nothing but what is whole and theirs."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHATML, save_tiny_model
from unit.trainer.prepare.test_paired import with_pairs
from unit.trainer.prepare.test_stage import chat, config, write

from finetune_trainer import __main__ as entry_point
from finetune_trainer.config import RunConfig
from finetune_trainer.errors import BadData
from finetune_trainer.prepare import content, shared, stage
from finetune_trainer.prepare.augment import fetch_rows
from finetune_trainer.prepare.shared import ENTRY, ROOM, SharedData

KEY, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
ROWS = [*(chat(n, f"It is {n}.") for n in range(30)), chat(3, "It is 3."), chat(4, " ")]
Disk = namedtuple("Disk", "free")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (folder := tmp_path / "shared").mkdir()
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", ROWS)


def job(model: Path, rows: Path, name: str = "second", /, **data: Any) -> RunConfig:
    wish = config(model, rows)
    wish = RunConfig.model_validate(
        {**wish.model_dump(by_alias=True), "data": {**wish.data.model_dump(by_alias=True), **data}}
    )
    return wish.model_copy(update={"job": wish.job.model_copy(update={"name": name, "uid": name})})


def files(folder: Path) -> dict[str, bytes]:
    """All but the manifest."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def nothing_is_read(*_: object) -> None:
    raise AssertionError("prepared again")


def test_a_second_job_takes_the_data_of_the_first(
    tmp_path: Path, model: Path, train: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = stage.run(job(model, train), tmp_path / "alone")
    first = stage.run(job(model, train, "first"), tmp_path / "one", shared=place)
    assert first == alone
    assert len(names(place)) == 1

    monkeypatch.setattr(stage, "read_sides", nothing_is_read)
    (tmp_path / "claim").mkdir()
    moved = tmp_path / "claim/train.jsonl"
    shutil.copyfile(train, moved)
    second = stage.run(job(model, moved), tmp_path / "two", shared=place)
    assert second == {**alone, "data": {**alone["data"], "preparedBy": "first"}}
    assert files(tmp_path / "two/data") == files(tmp_path / "alone/data")
    assert stage.run(job(model, moved), tmp_path / "two", shared=place) == second


def test_what_training_takes_is_told_of_the_job_that_trains(
    tmp_path: Path, model: Path, train: Path, place: Path
) -> None:
    stage.run(job(model, train, "first"), tmp_path / "one", shared=place)
    wish = job(model, train)
    longer = wish.model_copy(update={"training": wish.training.model_copy(update={"epochs": 9})})
    alone = stage.run(longer, tmp_path / "alone")
    taken = stage.run(longer, tmp_path / "two", shared=place)
    assert taken["data"].pop("preparedBy") == "first"
    assert taken == alone
    assert alone["steps"] > 20
    assert files(tmp_path / "two/data") == files(tmp_path / "alone/data")


def another_row(train: Path) -> dict[str, Any]:
    write(train, [*ROWS[:-1], chat(4, "It is four.")])
    return {}


def another_name(train: Path) -> dict[str, Any]:
    moved = train.rename(train.with_name("other.jsonl"))
    return {"train": [{"name": "facts", "field": "spec.data.train[0]", "path": str(moved)}]}


def own_held_out(train: Path) -> dict[str, Any]:
    held = write(train.with_name("eval.jsonl"), [chat(90)])
    return {"eval": [{"name": "e", "field": "spec.data.eval[0]", "path": str(held)}]}


CHANGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a row": another_row,
    "the name of a file": another_name,
    "held-out rows": own_held_out,
    "the share held out": lambda _: {"evalFraction": 0.2},
    "the length": lambda _: {"sequenceLength": 48},
    "a bound": lambda _: {"expect": {"minRows": 2}},
    "a rule": lambda _: {"cleaning": {"exactDuplicates": "Report"}},
    "the report": lambda _: {"report": {"terms": [{"name": "t", "words": ["it"]}]}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_or_settings_are_prepared(
    tmp_path: Path, model: Path, train: Path, place: Path, change: str
) -> None:
    stage.run(job(model, train, "first"), tmp_path / "one", shared=place)
    other = CHANGES[change](train)
    result = stage.run(job(model, train, **other), tmp_path / "two", shared=place)
    assert "preparedBy" not in result["data"]
    assert len(names(place)) == 2


@pytest.mark.parametrize("change", ["template", "paired prompts", "program", "seed of the mix"])
def test_another_model_or_program_prepares(
    tmp_path: Path,
    model: Path,
    train: Path,
    place: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighted = {"name": "facts", "field": "spec.data.train[0]", "path": str(train), "weight": "1"}
    data = {"train": [weighted]} if change == "seed of the mix" else {}
    wish = job(model, train, **data)
    stage.run(wish, tmp_path / "one", shared=place)
    if change == "template":
        template = CHATML + "{# the same words #}"
        wish = job(save_tiny_model(tmp_path / "other", template=template), train)
    elif change == "paired prompts":
        wish = with_pairs(wish)
    elif change == "program":
        monkeypatch.setattr(content, "program_digest", lambda: "sha256:other")
    else:
        wish = wish.model_copy(update={"training": wish.training.model_copy(update={"seed": 7})})
    result = stage.run(wish, tmp_path / "two", shared=place)
    assert "preparedBy" not in result["data"]
    assert len(names(place)) == 2


def test_the_program_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "finetune_trainer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rule.py").write_text("limit = 1")
    monkeypatch.setattr(content.finetune_trainer, "__file__", str(package / "__init__.py"))
    before = content.program_digest()
    (package / "rule.cpython-311.pyc").write_bytes(b"1")
    assert content.program_digest() == before
    (package / "rule.py").write_text("limit = 2")
    assert content.program_digest() != before


def flipped(entry: Path) -> None:
    path = entry / "train/input_ids.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def cut(entry: Path) -> None:
    (entry / ENTRY).write_bytes((entry / ENTRY).read_bytes()[:-40])


def counted_otherwise(entry: Path) -> None:
    told = (entry / ENTRY).read_text()
    assert '"kept": 2' in told
    (entry / ENTRY).write_text(told.replace('"kept": 2', '"kept": 3'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte": flipped,
    "a file is gone": lambda entry: (entry / "rejects.jsonl").unlink(),
    "one more file": lambda entry: (entry / "train/row_sources.npy").write_bytes(b""),
    "half a record": cut,
    "the record is gone": lambda entry: (entry / ENTRY).unlink(),
    "another count": counted_otherwise,
    "another file": lambda entry: (entry / ENTRY).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_not_taken_and_made_anew(
    tmp_path: Path, model: Path, train: Path, place: Path, damage: str
) -> None:
    alone = stage.run(job(model, train, "first"), tmp_path / "one", shared=place)
    (entry,) = place.iterdir()
    DAMAGE[damage](entry)
    second = stage.run(job(model, train), tmp_path / "two", shared=place)
    assert second == alone
    assert files(tmp_path / "two/data") == files(tmp_path / "one/data")
    assert names(place) == [entry.name]
    third = stage.run(job(model, train, "third"), tmp_path / "three", shared=place)
    assert third["data"]["preparedBy"] == "second"


def test_an_entry_of_another_key_is_not_taken(tmp_path: Path, place: Path) -> None:
    SharedData(place).keep(KEY, made(tmp_path), (), {})
    (place / KEY[7:]).rename(place / OTHER[7:])
    (target := tmp_path / "target").mkdir()
    assert SharedData(place).take(OTHER, target) is None
    assert not names(place)
    assert not names(target)


def test_rows_that_change_while_they_are_prepared_are_not_kept(
    tmp_path: Path, model: Path, train: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stage.read_sides

    def changed(*args: Any) -> Any:
        write(train, [*ROWS, chat(77)])
        return read(*args)

    monkeypatch.setattr(stage, "read_sides", changed)
    stage.run(job(model, train), tmp_path / "one", shared=place)
    assert not names(place)


def test_bad_data_is_not_kept(tmp_path: Path, model: Path, train: Path, place: Path) -> None:
    with pytest.raises(BadData):
        stage.run(job(model, train, expect={"minRows": 99}), tmp_path / "one", shared=place)
    assert not names(place)


def test_without_the_folder_a_job_prepares(tmp_path: Path, model: Path, train: Path) -> None:
    alone = stage.run(job(model, train), tmp_path / "one")
    nowhere = tmp_path / "nowhere"
    assert stage.run(job(model, train), tmp_path / "two", shared=nowhere) == alone
    assert not nowhere.exists()


def test_rows_from_a_container_are_known_by_their_content(
    tmp_path: Path, model: Path, train: Path, place: Path
) -> None:
    found = []
    for number, answer in enumerate(("More.", "More.", "Other.")):
        wish = job(model, train, f"job-{number}", augment={"image": "example.test/more:1"})
        folder = tmp_path / str(number) / "augment/0"
        fetch_rows(wish.data, folder)
        write(folder / "out/facts.jsonl", [*ROWS, chat(60, answer)])
        result = stage.run(wish, tmp_path / str(number), folder, place)
        found.append(result["data"].get("preparedBy"))
        assert result["data"]["augment"] == {"rowsIn": 32, "rowsOut": 33}
    assert found == [None, "job-0", None]


def test_the_stage_finds_the_folder_by_its_environment(
    tmp_path: Path, model: Path, train: Path, place: Path
) -> None:
    run_json = tmp_path / "run.json"
    run_json.write_text(job(model, train).model_dump_json(by_alias=True, exclude_none=True))
    for name in ("one", "two"):
        env = {
            "FINETUNE_RUN_JSON": str(run_json),
            "FINETUNE_WORKSPACE": str(tmp_path / name),
            "FINETUNE_TERMINATION_LOG": str(tmp_path / "said"),
            "FINETUNE_SHARED_DATA": str(place),
        }
        (tmp_path / name).mkdir()
        assert entry_point.main(["prepare"], env) == 0
    assert json.loads((tmp_path / "said").read_text())["data"]["preparedBy"] == "second"


def made(tmp_path: Path, size: int = 1000) -> Path:
    (folder := tmp_path / f"made-{size}").mkdir(exist_ok=True)
    (folder / "rows.npy").write_bytes(os.urandom(size))
    return folder


def test_of_two_that_make_the_same_one_stays(tmp_path: Path, place: Path) -> None:
    folder = made(tmp_path, 10**6)
    start = threading.Barrier(4)

    def keep(number: int) -> None:
        start.wait()
        SharedData(place).keep(KEY, folder, (), {"by": number})

    pods = [threading.Thread(target=keep, args=(number,)) for number in range(4)]
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join()
    assert names(place) == [KEY[7:]]
    (target := tmp_path / "target").mkdir()
    assert SharedData(place).take(KEY, target) in [{"by": number} for number in range(4)]
    assert (target / "rows.npy").read_bytes() == (folder / "rows.npy").read_bytes()


def test_a_copy_is_the_jobs_own(tmp_path: Path, place: Path) -> None:
    SharedData(place).keep(KEY, made(tmp_path), (), {})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert SharedData(place).take(KEY, tmp_path / name) == {}
        (tmp_path / name / "rows.npy").write_bytes(b"changed")


def test_the_longest_unused_make_room(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, folder = SharedData(place), made(tmp_path, 100_000)
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda _: Disk(240_000 * ROOM))
    keys = [f"sha256:{number:064x}" for number in range(4)]
    for number, key in enumerate(keys[:2]):
        entries.keep(key, folder, (), {})
        os.utime(place / key[7:] / ENTRY, (number, number))
    (target := tmp_path / "target").mkdir()
    assert entries.take(keys[0], target) == {}

    entries.keep(keys[2], folder, (), {})  # 300,000 are more than a tenth of 2,600,000
    assert names(place) == [keys[0][7:], keys[2][7:]]
    entries.keep(keys[3], made(tmp_path, 270_000), (), {})  # larger than all that may be used
    assert names(place) == [keys[0][7:], keys[2][7:]]
    monkeypatch.setattr(shared, "MAX_ENTRIES", 2)
    entries.keep(keys[3], made(tmp_path, 10), (), {})
    assert keys[3][7:] in names(place)
    assert len(names(place)) == 2


def test_leftovers_of_killed_pods_go_after_a_day(tmp_path: Path, place: Path) -> None:
    hexes = KEY[7:]
    for name in (f".{hexes}.tmp.old", f".{hexes}.old.old", f".{hexes}.tmp.new", ".snapshot"):
        (place / name / "train").mkdir(parents=True)
        if not name.endswith("new"):
            os.utime(place / name, (0, 0))
    SharedData(place).keep(OTHER, made(tmp_path), (), {})
    assert names(place) == [f".{hexes}.tmp.new", ".snapshot", OTHER[7:]]


def test_a_full_claim_ends_no_job(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared, "sync", full)
    SharedData(place).keep(KEY, made(tmp_path), (), {})
    assert not names(place)


def test_a_folder_that_cannot_be_looked_into_ends_no_job(tmp_path: Path) -> None:
    """Its permissions are another's, or the volume is gone: every look into it fails."""
    entries = SharedData(tmp_path / ("x" * 300))
    (target := tmp_path / "target").mkdir()
    assert entries.take(KEY, target) is None
    assert target.is_dir()
    entries.keep(KEY, made(tmp_path), (), {})
