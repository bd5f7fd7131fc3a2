"""Drawing the rows of an epoch by the weights of their sources."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny_model

from finetune_trainer.config import Data, RunConfig
from finetune_trainer.errors import BadData
from finetune_trainer.prepare import stage
from finetune_trainer.prepare.content import own_digest
from finetune_trainer.prepare.mixing import _order, apportion
from finetune_trainer.prepare.store import PackedDataset

WEIGHTS = st.lists(st.decimals("0.001", "1000000", places=3).map(Fraction), min_size=1, max_size=6)


@given(st.integers(0, 10**7), WEIGHTS)
def test_shares_are_as_near_to_the_weights_as_whole_rows_can_be(
    total: int, weights: list[Fraction]
) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1


def test_equal_remainders_go_to_the_earlier_source() -> None:
    assert apportion(5, [Fraction(1), Fraction(1)]) == [3, 2]
    assert apportion(10, [Fraction("0.7"), Fraction("0.2"), Fraction("0.1")]) == [7, 2, 1]


def test_which_rows_are_drawn_is_told_by_content_and_seed_alone() -> None:
    keys = np.random.default_rng(1).integers(-(2**63), 2**63, 1000, dtype=np.int64)

    def drawn(keys: Any, seed: int) -> set[int]:
        return set(keys[_order(keys, seed)[:100]].tolist())

    assert drawn(keys, 7) == drawn(keys[::-1].copy(), 7)
    assert len(drawn(keys, 7) & drawn(keys, 8)) < 30  # by chance: 10
    grown = np.append(keys, np.arange(10, dtype=np.int64))
    assert len(drawn(keys, 7) & drawn(grown, 7)) > 90


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def chat(source: str, number: int, answer: str = "So it is.") -> dict[str, Any]:
    asked = {"role": "user", "content": f"{source} {number}?"}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def config(
    model: Path,
    folder: Path,
    rows: dict[str, list[Any]],
    weights: list[str | None],
    **settings: Any,
) -> RunConfig:
    """A job with a source for each entry of ``rows``."""
    train = []
    for number, (name, content) in enumerate(rows.items()):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in content))
        source = {"name": name, "field": f"spec.data.train[{number}]", "path": str(path)}
        weight = weights[number]
        train.append(source if weight is None else {**source, "weight": weight})
    data = {"train": train, "sequenceLength": 64, "evalFraction": 0, **settings}
    return RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "u1"},
            "model": {"path": str(model)},
            "data": {key: value for key, value in data.items() if key != "seed"},
            "method": {"lora": {}},
            "training": {
                "epochs": 2,
                "microBatchSize": 2,
                "accumulation": 1,
                "learningRate": 0.001,
                "seed": settings.get("seed", 42),
            },
            "zeroStage": 2,
            "workers": {"count": 2, "ranksPerWorker": 1, "device": "CPU"},
        }
    )


def trained_on(workspace: Path) -> Counter[int]:
    """How often an epoch has each sample."""
    packed = PackedDataset(workspace / "data/train")
    return Counter(sample for row in range(len(packed)) for sample in packed.samples(row))


TWO = {"much": [chat("much", n) for n in range(30)], "few": [chat("few", n) for n in range(10)]}


def test_an_epoch_draws_from_each_source_by_its_weight(tmp_path: Path, model: Path) -> None:
    wanted = config(model, tmp_path, TWO, ["0.25", "0.75"])
    data = stage.run(wanted, tmp_path / "ws")["data"]

    often = trained_on(tmp_path / "ws")
    assert often.total() == 40  # as many as without weights
    much = {sample: times for sample, times in often.items() if sample < 30}
    few = {sample: times for sample, times in often.items() if sample >= 30}
    assert len(much) == 10 and set(much.values()) == {1}
    assert len(few) == 10 and set(few.values()) == {3}
    assert data["rows"] == 40 and data["kept"] == 20
    told = [
        {key: s[key] for key in ("kept", "drawn", "notDrawn", "epochs")} for s in data["sources"]
    ]
    assert told == [
        {"kept": 10, "drawn": 10, "notDrawn": 20, "epochs": "0.3333"},
        {"kept": 10, "drawn": 30, "notDrawn": 0, "epochs": "3"},
    ]
    packed = PackedDataset(tmp_path / "ws/data/train")
    assert packed.num_tokens == data["tokens"]
    assert int(packed.num_supervised.sum()) == data["supervisedTokens"]
    manifest = json.loads((tmp_path / "ws/data/manifest.json").read_text())
    for account in manifest["accounts"]:
        ended = account["kept"] + account["heldOut"] + account["notDrawn"]
        assert account["rows"] == ended + sum(account["dropped"].values())


def test_a_part_of_the_rows_is_drawn_once_more(tmp_path: Path, model: Path) -> None:
    stage.run(config(model, tmp_path, TWO, ["1", "0.6"]), tmp_path / "ws")
    few = Counter(times for sample, times in trained_on(tmp_path / "ws").items() if sample >= 30)
    assert few == {2: 5, 1: 5}  # 15 of 40


def test_the_report_counts_what_an_epoch_draws(tmp_path: Path, model: Path) -> None:
    stage.run(config(model, tmp_path, TWO, ["1", "9"]), tmp_path / "ws")
    report = json.loads((tmp_path / "ws/data/report.json").read_text())
    assert report["volume"]["inEpoch"] == 40 and report["volume"]["notDrawn"] == 26
    source = next(part for part in report["balance"] if part["kind"] == "source")
    assert [value["rows"] for value in source["values"]] == [4, 36]
    assert sum(value["tokens"] for value in source["values"]) == report["volume"]["tokens"]
    page = (tmp_path / "ws/data/report.html").read_text()
    for part in ("drawn an epoch", "3.6 × each", "not drawn", "an epoch has 40 rows"):
        assert part in page


def test_rows_that_are_drawn_often_are_warned_of(tmp_path: Path, model: Path) -> None:
    lopsided = {"much": TWO["much"], "two": [chat("two", n) for n in range(2)], "no": TWO["few"]}
    wanted = config(model, tmp_path, lopsided, ["1", "1", "0.0001"])
    warnings = stage.run(wanted, tmp_path / "ws")["data"]["warnings"]
    assert "an epoch draws each row of two 10.5 times, by its weight" in warnings
    assert "the weight of no is so low that none of its rows is drawn" in warnings


def test_weights_that_change_nothing_give_the_same_bytes(tmp_path: Path, model: Path) -> None:
    digests = {
        stage.run(config(model, tmp_path, TWO, weights), tmp_path / f"ws{n}")["data"]["digest"]
        for n, weights in enumerate(([None, None], ["30", "10"]))
    }
    assert len(digests) == 1


def test_what_was_prepared_without_weights_keeps_its_digest(tmp_path: Path, model: Path) -> None:
    wanted = config(model, tmp_path, TWO, [None, None])
    assert "weight" not in wanted.data.model_dump()["train"][0]
    described = {"digest": "sha256:1"}
    other = config(model, tmp_path, TWO, [None, None], seed=7)
    assert own_digest(wanted, described) == own_digest(other, described)


def test_weights_and_their_seed_decide_what_is_prepared(tmp_path: Path, model: Path) -> None:
    wanted = config(model, tmp_path, TWO, ["1", "3"])
    seeded = wanted.training.model_copy(update={"seed": 7})
    source = wanted.data.train[0].model_copy(update={"weight": "2"})
    data = wanted.data.model_copy(update={"train": (source, *wanted.data.train[1:])})
    made = [
        stage.run(each, tmp_path / "ws")["data"]["digest"]
        for each in (
            wanted,
            wanted.model_copy(update={"training": seeded}),
            wanted.model_copy(update={"data": data}),
            wanted,
        )
    ]
    assert made[0] == made[3]
    assert len(set(made)) == 3


def test_rows_in_several_pieces_are_drawn_whole(tmp_path: Path, model: Path) -> None:
    rows = {"long": [chat("long", n, "So it is. " * 60) for n in range(3)], "few": TWO["few"]}
    wanted = config(model, tmp_path, rows, ["9", "1"], overlong="Split")
    stage.run(wanted, tmp_path / "ws")
    packed = PackedDataset(tmp_path / "ws/data/train")
    tokens = Counter[int]()
    for row in range(len(packed)):
        for sample, length in zip(
            packed.samples(row), packed.row(row).segment_lengths, strict=True
        ):
            tokens[sample] += length
    assert len({tokens[sample] for sample in range(3)}) == 1  # 12 draws: each row 4 times
    report = json.loads((tmp_path / "ws/data/report.json").read_text())
    source = next(part for part in report["balance"] if part["kind"] == "source")
    assert [value["rows"] for value in source["values"]] == [12, 1]


def test_a_source_with_nothing_to_draw_ends_the_stage(tmp_path: Path, model: Path) -> None:
    rows = {"few": TWO["few"], "again": TWO["few"]}
    with pytest.raises(BadData) as caught:
        stage.run(config(model, tmp_path, rows, ["1", "1"]), tmp_path / "ws")
    assert caught.value.message == (
        "spec.data.train[1].weight: no row of this source is left to draw from "
        "(exactDuplicates: 10)"
    )


def test_held_out_rows_are_no_part_of_the_shares(tmp_path: Path, model: Path) -> None:
    wanted = config(model, tmp_path, TWO, ["1", "1"], evalFraction=0.3)
    data = stage.run(wanted, tmp_path / "ws")["data"]
    left = 40 - data["evalRows"]
    assert data["evalRows"] and [s["drawn"] for s in data["sources"]] == [
        left - left // 2,
        left // 2,
    ]
    held = PackedDataset(tmp_path / "ws/data/eval")
    assert sum(len(held.samples(row)) for row in range(len(held))) == data["evalRows"]


def test_data_knows_weights_as_text() -> None:
    source = {"name": "a", "field": "f", "path": "/a", "weight": "2e-1"}
    data = Data.model_validate({"train": [source], "sequenceLength": 64})
    assert data.model_dump()["train"][0]["weight"] == "2e-1"
    assert Fraction(str(data.train[0].weight)) == Fraction(1, 5)
