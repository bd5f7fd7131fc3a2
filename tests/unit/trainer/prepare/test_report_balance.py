"""What the report counts by source, column, language and length."""

from __future__ import annotations

import math

import datasets
import numpy as np
import pytest

from finetune_trainer.prepare.report import balance
from finetune_trainer.prepare.report.language import told_apart
from finetune_trainer.prepare.report.rows import Rows
from finetune_trainer.prepare.values import as_value


def rows_with(cells: list[str | None], tokens: int = 10) -> Rows:
    count = len(cells)
    samples = datasets.Dataset.from_dict(
        {"values": [[cell] for cell in cells], "source": [0] * count, "key": range(count)}
    )
    return Rows(samples, np.arange(count), np.full(count, tokens), np.arange(count))


def test_rows_and_learnt_tokens_are_counted_by_value_and_the_most_frequent_comes_first() -> None:
    rows = rows_with(["a", "b", None, "b", "b"])
    (values,) = balance.read_columns(rows, ["label"])
    facts = balance.by_column(rows, values)
    assert facts["values"] == [
        {"value": "b", "rows": 3, "tokens": 30, "supervisedTokens": 1 + 3 + 4},
        {"value": "a", "rows": 1, "tokens": 10, "supervisedTokens": 0},
    ]
    assert (facts["missing"], facts["distinct"], facts["capped"]) == (1, 2, False)
    assert facts["further"]["rows"] == 0


def test_values_that_are_not_shown_are_added_up() -> None:
    cells = [f"v{n:03}" for n in range(balance.MAX_VALUES + 30)]
    rows = rows_with([*cells, cells[5]])
    (values,) = balance.read_columns(rows, ["label"])
    facts = balance.by_column(rows, values)
    assert facts["values"][0] == {
        "value": "v005",
        "rows": 2,
        "tokens": 20,
        "supervisedTokens": 5 + len(cells),
    }
    assert len(facts["values"]) == balance.MAX_VALUES
    assert sum(value["rows"] for value in facts["values"]) + facts["further"]["rows"] == 39


def test_a_column_of_names_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "MAX_DISTINCT", 3)
    rows = rows_with(["a", "b", "c", "d", "e", "a"])
    (values,) = balance.read_columns(rows, ["name"])
    facts = balance.by_column(rows, values)
    assert values.names == ["(missing)", "a", "b", "c"]
    assert facts["capped"]
    assert facts["further"]["rows"] == 2
    assert [value["rows"] for value in facts["values"]] == [2, 1, 1]


def test_lengths_fall_into_buckets_that_double() -> None:
    rows = rows_with([None] * 5)
    rows = Rows(rows.samples, rows.numbers, np.array([1, 64, 65, 128, 300]), rows.supervised)
    facts = balance.by_length(rows, 256)
    assert [(value["value"], value["rows"]) for value in facts["values"]] == [
        ("to 64", 2),
        ("to 128", 2),
        ("over 256", 1),
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (None, None),
        ("", None),
        ("  \n", None),
        (math.nan, None),
        (b"\xff\x00", "(binary)"),
        (3, "3"),
        (True, "true"),
        ({"b": [1]}, '{"b": [1]}'),
        ("two\n words", "two words"),
        ("x" * 100, "x" * 62 + " …"),
        ("half \ud800", "half ?"),
    ],
)
def test_cells_of_any_kind_have_a_name(cell: object, value: str | None) -> None:
    assert as_value(cell) == value


def test_languages_are_told_where_the_text_says_enough() -> None:
    texts = {
        "en": "The invoice is wrong, and nobody answers my messages.",
        "de": "Die Rechnung ist falsch, und niemand antwortet auf meine Nachrichten.",
        "es": "La factura es incorrecta y nadie responde a mis mensajes.",
        "ja": "請求書が間違っていて、誰も返事をくれません。",
        None: "12 34 56",
    }
    assert told_apart()(list(texts.values())) == list(texts)


def test_many_texts_at_once_are_told_as_each_by_itself() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    from finetune_trainer.prepare.report.identifier import Identifier

    texts = [
        "", " ", "1", "THE INVOICE IS WRONG", "nai\u0308ve Straße 🙂", "请求书",
        "half \ud800 of it", "Die Rechnung ist falsch.", "def f(x): return x", "a" * 900,
        "Die Rechnung ist falsch.",
    ]  # fmt: skip
    alone = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    assert list(Identifier.load().classify_all(texts)) == [alone.classify(text) for text in texts]
