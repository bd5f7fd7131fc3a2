"""How much the answers differ, and whether the held-out prompts are like what is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_tokenizer
from unit.trainer.prepare.cleaned import clean_rows

from finetune_trainer.config import Data
from finetune_trainer.prepare.cleaning.compare import cluster_sizes
from finetune_trainer.prepare.cleaning.rejects import Ledger
from finetune_trainer.prepare.report import coverage as coverages
from finetune_trainer.prepare.report import diversity as measures
from finetune_trainer.prepare.report.rows import Rows, Side, Text, rows_of
from finetune_trainer.prepare.splits import locate_sides, read_sides
from finetune_trainer.prepare.tokenize import Tokenization, tokenize_split


def answers(*texts: str) -> dict[str, Any]:
    return measures.diversity(Text(n, "", text) for n, text in enumerate(texts))


def test_distinct_n_grams_are_the_share_of_different_ones() -> None:
    facts = answers("A gang is a gang.", "a gang")
    # a, gang, is of 7 words; "a gang", "gang is", "is a" of 5 pairs; of 3 triples all differ
    assert facts["distinct"] == {"1": round(3 / 7, 4), "2": 3 / 5, "3": 1}
    assert facts["words"] == 7


def test_of_long_data_as_many_words_are_compared_as_of_other_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "MAX_WORDS", 4)
    facts = answers("a b c", "d e f", "g h i")
    assert facts["words"] == 4
    assert facts["rows"] == 3


def test_scripts_without_spaces_are_counted_by_character() -> None:
    assert measures.words("Café, don't 你好 ok") == ["café", "don't", "你", "好", "ok"]


def test_the_most_common_beginnings_are_told() -> None:
    facts = answers("As an AI model I", "as an ai MODEL we", "Yes.", "Yes", "No")
    assert facts["beginnings"] == [
        {"words": "as an ai model", "rows": 2},
        {"words": "yes", "rows": 2},
    ]


def test_nothing_to_say_is_no_fault() -> None:
    assert answers("", "…")["distinct"] == {}
    assert measures.clusters([])["largest"] == 0


def test_near_duplicates_hang_together_by_their_links() -> None:
    # 2 and 5 are like 1, 7 is like 5; 9 is like 8
    assert cluster_sizes({2: 1, 5: 1, 7: 5, 9: 8}) == [4, 2]
    facts = measures.clusters([4, 2])
    assert (facts["clusters"], facts["rows"], facts["largest"]) == (2, 6, 4)
    assert [size["rows"] for size in facts["bySize"]] == [2, 4, 0, 0, 0]


def test_cleaning_hands_the_clusters_on(tmp_path: Path) -> None:
    words = " ".join(f"word{n}" for n in range(60))
    rows = [{"prompt": f"{words} {n}", "response": words} for n in range(4)]
    rows += [{"prompt": f"other {n} {n * 77}", "response": f"{n * 991}"} for n in range(3)]
    assert clean_rows(tmp_path, rows).clusters == [4]


def sides(tmp_path: Path, train: list[str], held: list[str]) -> tuple[Side, Side]:
    tokenizer = make_tokenizer()
    sources = {}
    for side, prompts in (("train", train), ("eval", held)):
        path = tmp_path / f"{side}.jsonl"
        rows = [{"prompt": prompt, "response": f"Yes, {prompt}."} for prompt in prompts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources[side] = [{"name": side, "field": f"spec.data.{side}[0]", "path": str(path)}]
    cleaning = {"exactDuplicates": "Report"}
    data = Data.model_validate({"sequenceLength": 128, "cleaning": cleaning, **sources})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    both = read_sides(
        data,
        locate_sides(data, scratch),
        scratch,
        Ledger(tmp_path / "rejects.jsonl", data.cleaning),
    )
    done = []
    for split in (both.train, both.held):
        folder = scratch / split.name
        folder.mkdir()
        tokenization = Tokenization(tokenizer, data, set())
        done.append(Side(split, tokenize_split(split.samples, tokenization, ["a"], folder)))
    return done[0], done[1]


def everything(side: Side) -> Any:
    return rows_of(side).numbers


def test_a_prompt_like_no_training_row_is_told_from_one_that_is_trained_on(tmp_path: Path) -> None:
    letters = [f"{'abcdefgh'[n % 8]}{'ijkl'[n % 4]}{'mnop'[n % 3]}" for n in range(40)]
    train, held = sides(tmp_path, letters, ["ZZQ XXW", letters[7]])
    facts = coverages.coverage(train, held, everything(held))
    assert facts is not None
    assert (facts["prompts"], facts["unlike"]) == (2, 1)
    least, most = facts["least"]
    assert (least["place"], most["place"]) == ("eval.jsonl line 1", "eval.jsonl line 2")
    assert least["likeness"] < coverages.UNLIKE
    assert most["likeness"] == 1
    assert most["nearest"] == "train.jsonl line 8"


def test_batches_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"{chr(97 + n % 20)}{chr(97 + n % 7)} {n}" for n in range(50)]
    train, held = sides(tmp_path, prompts, ["ab 3", "zz 99", "qq"])
    whole = coverages.coverage(train, held, everything(held))
    monkeypatch.setattr(coverages, "_BATCH", 7)
    for processes in (1, 2):
        assert coverages.coverage(train, held, everything(held), processes) == whole


def test_likeness_is_the_cosine_of_weighted_sets_of_tokens(tmp_path: Path) -> None:
    """Against a calculation by the book, for each pair of rows."""
    prompts = ["ab", "bc", "cd", "de", "xy", "ef", "gh", "ij", "kl", "mn"]
    train, held = sides(tmp_path, prompts, ["bd", "yk"])
    facts = coverages.coverage(train, held, everything(held))
    bags = [
        [
            set(segment.input_ids[segment.supervised == 0].tolist())
            for segment in map(side.tokenized.segment, range(len(side.tokenized.kept)))
        ]
        for side in (train, held)
    ]
    count = len(bags[0])
    frequency = {t: sum(t in bag for bag in bags[0]) for bag in bags[0] + bags[1] for t in bag}
    weight = {t: np.log(count / n) if n else np.log(count + 1) for t, n in frequency.items()}
    weight = {t: 0 if frequency[t] > 0.2 * count else w for t, w in weight.items()}
    assert facts is not None

    def norm(bag: set[int]) -> float:
        return float(np.sqrt(sum(weight[t] ** 2 for t in bag)))

    best = {
        f"eval.jsonl line {n + 1}": max(
            sum(weight[t] ** 2 for t in bag & other) / norm(bag) / norm(other)
            for other in bags[0]
            if norm(other)
        )
        for n, bag in enumerate(bags[1])
    }
    for prompt in facts["least"]:
        assert prompt["likeness"] == pytest.approx(best[prompt["place"]], abs=1e-3)


def test_where_nothing_is_held_out_nothing_is_said(tmp_path: Path) -> None:
    train, held = sides(tmp_path, ["a", "b"], ["c"])
    assert coverages.coverage(train, held, np.zeros(0, dtype=np.int64)) is None


def test_a_fair_sample_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    prompts = [f"number {n}" for n in range(30)]
    chosen = []
    for name, order in (("one", prompts), ("other", prompts[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        rows: Rows = rows_of(sides(folder, order, ["x"])[0])
        texts = rows.texts("Assistant", rows.fair(10))
        chosen.append([text.read for text in texts])
    assert len(set(chosen[0])) == 10
    assert chosen[0] == chosen[1]
