"""The blind comparison: what it holds, what it hides, and when there is none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.blinding import tuned_first
from finetune_trainer.config import RunConfig
from finetune_trainer.judging.bundle import (
    ITEMS,
    PAGE,
    Bundle,
    make_bundle,
    read_bundle,
    write_bundle,
)
from finetune_trainer.judging.table import ANSWERS, write_rows


def make_config(**changes: Any) -> RunConfig:
    """As the operator writes it, with a human evaluation."""
    return RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "uid-one"},
            "model": {"path": "/m"},
            "data": {"train": [{"name": "a", "field": "f", "path": "/a"}], "sequenceLength": 64},
            "method": {"lora": {"rank": 4}},
            "training": {
                "steps": 1, "microBatchSize": 1, "accumulation": 1, "learningRate": 0.01, "seed": 7,
            },
            "zeroStage": 0,
            "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
            "evaluation": {"generation": {}, "human": {"configMap": "bot-ratings"}},
            **changes,
        }
    )  # fmt: skip


def row(number: int, base: str | None, tuned: str) -> dict[str, Any]:
    said = {} if base is None else {"base": {"text": base, "scores": {"bleu": 1.0}}}
    return {
        "place": f"a.jsonl line {number}",
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "reference": "right",
        **said,
        "tuned": {"text": tuned, "scores": {"bleu": 99.0}},
    }


ROWS = [row(number, f"old {number}", f"new {number}") for number in range(10)]


def made(rows: list[dict[str, Any]], **changes: Any) -> Bundle:
    bundle = make_bundle(make_config(**changes), rows)
    assert bundle is not None
    return bundle


def test_half_of_the_tuned_models_answers_are_a_by_the_draw_of_the_job() -> None:
    bundle = made(ROWS)
    assert bundle.tuned_first == tuned_first("uid-one", 7, 10) and len(bundle.tuned_first) == 5
    for item in bundle.items:
        new, old = ("a", "b") if item["id"] in bundle.tuned_first else ("b", "a")
        assert item[new].startswith("new") and item[old].startswith("old")
    assert [item["id"] for item in bundle.items] == list(range(1, 11))


def test_the_draw_is_that_of_uid_and_seed() -> None:
    draws = {tuned_first(uid, seed, 40) for uid in ("a", "b") for seed in (1, 2)}
    assert len(draws) == 4
    assert tuned_first("a", 1, 40) == tuned_first("a", 1, 40)
    # A biased draw would favour early items: the mean place of 20 out of 40 is 20.5.
    means = [sum(tuned_first(str(n), 1, 40)) / 20 for n in range(200)]
    assert math.isclose(sum(means) / 200, 20.5, abs_tol=0.5)


def test_nothing_in_the_bundle_tells_whose_an_answer_is(tmp_path: Path) -> None:
    bundle, config = made(ROWS), make_config()
    write_bundle(bundle, config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ITEMS, PAGE}
    for line in (tmp_path / ITEMS).read_text().splitlines():
        assert json.loads(line).keys() == {"id", "prompt", "reference", "a", "b"}
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert "tuned" not in text and "uid-one" not in text and "bleu" not in text.lower()


def test_the_digest_is_that_of_the_file_and_of_every_word_in_it(tmp_path: Path) -> None:
    import hashlib

    bundle = made(ROWS)
    write_bundle(bundle, make_config(), tmp_path)
    digest = "sha256:" + hashlib.sha256((tmp_path / ITEMS).read_bytes()).hexdigest()
    assert bundle.report == {"bundle": digest, "items": 10, "same": 0}
    assert digest in (tmp_path / PAGE).read_text()
    assert made([*ROWS[:-1], row(9, "old 9", "new nine")]).digest != digest


def test_answers_that_are_the_same_are_counted_and_not_rated() -> None:
    bundle = made([row(0, "yes", "yes"), *ROWS[:3], row(8, None, "alone")])
    assert (len(bundle.items), bundle.same) == (3, 1)


@pytest.mark.parametrize(
    "rows", [[], [row(0, "yes", "yes")], [row(0, None, "new")]], ids=["none", "same", "no base"]
)
def test_where_there_is_nothing_to_compare_there_is_no_bundle(rows: list[dict[str, Any]]) -> None:
    assert make_bundle(make_config(), rows) is None


def test_it_is_read_from_the_table_that_training_left(tmp_path: Path) -> None:
    assert read_bundle(make_config(), tmp_path) is None
    write_rows(tmp_path / ANSWERS, ROWS)
    assert read_bundle(make_config(), tmp_path) == made(ROWS)
    assert read_bundle(make_config(evaluation={"generation": {}}), tmp_path) is None


@pytest.mark.parametrize(
    "text", ["</script><script>x()</script>", "\ud800", "<!--", "ünï ☃ 𝄞\u2028"]
)
def test_no_text_breaks_out_of_the_page(tmp_path: Path, text: str) -> None:
    bundle = made([row(0, text, "new")])
    write_bundle(bundle, make_config(), tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert page.count("<script") == page.count("</script>") == 2
    embedded = page.split('id="bundle">')[1].split("</script>")[0]
    assert json.loads(embedded)["items"] == json.loads(json.dumps(bundle.items))
    assert text in json.loads((tmp_path / ITEMS).read_text()).values()
