"""Rows that cannot be used: left out, and named by rule, file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from unit.trainer.prepare.sampled import CHAT, PAIR, messages, read, rejects, write

from finetune_trainer.config import Cleaning
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import MAX_ROW_BYTES

DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]


def called(calls: object) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "b", "tool_calls": calls}
    return {"messages": [{"role": "user", "content": "a"}, answer]}


@pytest.mark.parametrize(
    ("bad", "rule", "reason"),
    [
        ('{"prompt": ', "brokenRows", "not valid JSON (Expecting value at column 12)"),
        ("[1]", "brokenRows", "a row must be a JSON object"),
        ('{"messages": ' + "9" * 5000 + "}", "brokenRows", "not valid JSON (Exceeds the limit"),
        ("[" * 100_000, "brokenRows", "not valid JSON (maximum recursion depth"),
        ({"messages": "hi"}, "brokenRows", "messages must be a list of messages"),
        ({"messages": []}, "brokenRows", "messages must be a list of messages"),
        ({"messages": "[{"}, "brokenRows", "messages is no valid JSON"),
        ({"messages": [{"from": "human"}]}, "brokenRows", "messages[0] must have role and content"),
        (messages(("human", "hi")), "brokenRows", "messages[0].role is 'human'; use system, user"),
        (messages(("user", 5)), "brokenRows", "messages[0].content must be text, not int"),
        (messages(("user", " ")), "brokenRows", "messages[0].content is empty"),
        (messages(("user", "a"), ("assistant", " ")), "emptyAnswers", "messages[1].content is em"),
        (messages(("user", "a"), ("assistant", None)), "emptyAnswers", "messages[1].content is em"),
        (messages(("assistant", "a")), "brokenRows", "must begin with the user"),
        (
            messages(("user", "a"), ("system", "b")),
            "brokenRows",
            "messages[1]: a system message must come first",
        ),
        (
            messages(("user", [{"type": "image_url", "image_url": "x"}])),
            "brokenRows",
            "messages[0].content has a part that is no text: image_url",
        ),
        (called("x"), "brokenRows", "messages[1].tool_calls must be a list of calls"),
        (called({"name": "f"}), "brokenRows", "messages[1].tool_calls must be a list of calls"),
        (called([1]), "brokenRows", "messages[1].tool_calls[0] must be an object with function"),
        (called([{"function": "f"}]), "brokenRows", "messages[1].tool_calls[0] must be an"),
        (called([{"function": {"name": 5}}]), "brokenRows", "messages[1].tool_calls[0] must be an"),
        (called([{"name": "\ud83d"}]), "encoding", "what belongs to tools holds half of a surrog"),
        ({**CHAT, "tools": 5}, "brokenRows", "tools must be a list of tools"),
        ({**CHAT, "tools": [1]}, "brokenRows", "tools must be a list of tools"),
        ({**CHAT, "tools": [{"a": DEEP}]}, "brokenRows", "tools and tool calls may have 64 levels"),
        (
            PAIR,
            "brokenRows",
            "no column 'messages' as in the source's other rows; "
            "it looks like Instruction (columns 'prompt' and 'response')",
        ),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "encoding", "half of a surrog"),
        (b'{"messages": "\xff"}', "encoding", "byte 15 of the row is not UTF-8"),
    ],
)
def test_a_bad_row_is_left_out_and_named_by_rule_file_and_line(
    tmp_path: Path, bad: object, rule: str, reason: str
) -> None:
    path = tmp_path / "train.jsonl"
    good, row = json.dumps(CHAT).encode(), bad if isinstance(bad, bytes) else as_line(bad)
    path.write_bytes(b"\n".join([good, b"", row, good, b""]))
    samples, reader = read(path)
    (reject,) = rejects(path)
    assert (reject["rule"], reject["file"], reject["line"]) == (rule, "train.jsonl", 3)
    assert reject["action"] == "dropped"
    assert reason in reject["reason"]
    assert len(reject["reason"]) <= 300
    assert len(reject["excerpt"]) <= 200
    assert len(samples) == 2
    assert reader.accounts[0].read == 3
    assert reader.accounts[0].dropped == {rule: 1}


def as_line(row: object) -> bytes:
    return (row if isinstance(row, str) else json.dumps(row)).encode()


def test_several_bad_rows_are_named_at_once_where_they_may_not_be_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", CHAT, "{", "{", CHAT, "{", "{")
    with pytest.raises(BadData) as caught:
        read(path, Cleaning(brokenRows="Fail"))
    assert [f"line {n}:" in caught.value.message for n in (2, 3, 5, 6)] == [True, True, True, False]
    assert "(spec.data.cleaning.brokenRows is Fail)" in caught.value.message


def test_one_bad_row_is_enough_where_none_may_be_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", CHAT, "{")
    with pytest.raises(BadData, match=r"train\[0\]: train.jsonl line 2: not valid JSON"):
        read(path, Cleaning(brokenRows="Fail"))


def test_a_missing_cell_of_a_csv_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('prompt,response\n"two\nlines",ok\nalone\n')
    read(path)
    assert [(r["rule"], r["line"], r["reason"]) for r in rejects(path)] == [
        ("emptyAnswers", 4, "response is missing")
    ]


def test_not_a_number_is_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", PAIR, '{"prompt": "a", "response": NaN, "score": NaN}')
    samples, _ = read(path)
    assert len(samples) == 1
    assert [(r["rule"], r["reason"]) for r in rejects(path)] == [
        ("emptyAnswers", "response is missing")
    ]


@pytest.mark.parametrize(
    ("good", "empty", "reason"),
    [
        (PAIR, {"prompt": "a", "response": ""}, "messages[1].content is empty"),
        (PAIR, {"prompt": "a", "response": None}, "response is missing"),
        ({"text": "a"}, {"text": None}, "text is missing"),
        (CHAT, messages(("user", "a"), ("assistant", None)), "messages[1].content is empty"),
    ],
)
def test_empty_answers_may_be_kept(
    tmp_path: Path, good: dict[str, Any], empty: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "train.jsonl", good, empty)
    samples, reader = read(path, Cleaning(emptyAnswers="Report"))
    assert len(samples) == 2 == reader.accounts[0].read
    assert reader.accounts[0].reported == {"emptyAnswers": 1}
    assert [(r["action"], r["reason"]) for r in rejects(path)] == [("reported", reason)]


def test_a_row_of_ten_megabytes_is_read_and_a_boundless_one_is_not(tmp_path: Path) -> None:
    large = {"prompt": "a", "response": "b" * 10 * 2**20}
    boundless = {"prompt": "a", "response": "b" * MAX_ROW_BYTES}
    path = write(tmp_path / "train.jsonl", PAIR, large, boundless, PAIR)
    samples, _ = read(path)
    assert len(samples) == 3
    assert [(r["line"], r["reason"]) for r in rejects(path)] == [
        (3, "the row is larger than 32 MiB")
    ]


def test_a_cell_of_a_parquet_file_that_is_not_utf_8_costs_its_row_only(tmp_path: Path) -> None:
    good, bad = pyarrow.array([b"What?", b"\xff", b"Who?"]), pyarrow.array(["a", "b", "c"])
    damaged = pyarrow.StringArray.from_buffers(3, good.buffers()[1], good.buffers()[2])
    table = pyarrow.table({"prompt": damaged, "response": bad})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    samples, reader = read(tmp_path / "train.parquet")
    assert len(samples) == 2
    assert reader.accounts[0].dropped == {"encoding": 1}
    assert rejects(tmp_path / "train.parquet")[0]["row"] == 2
