"""From rows to samples: formats, field mapping, normalized text, keys."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from unit.trainer.prepare.sampled import CHAT, PAIR, messages, read, rejects, turns, write

from finetune_trainer.config import Cleaning
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.sample import content_key


@pytest.mark.parametrize(
    ("row", "format", "decided"),
    [
        (CHAT, "Chat", "column 'messages' holds messages"),
        (PAIR, "Instruction", "columns 'prompt' and 'response'"),
        ({"instruction": "a", "output": "b"}, "Instruction", "columns 'instruction' and 'output'"),
        ({"text": "Once."}, "Completion", "column 'text'"),
    ],
)
def test_auto_says_which_columns_decided(
    tmp_path: Path, row: dict[str, Any], format: str, decided: str
) -> None:
    _, reader = read(write(tmp_path / "train.jsonl", row))
    assert (reader.reports[0].format, reader.reports[0].decided) == (format, decided)


def test_an_instruction_becomes_a_conversation(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "instruction": "Add.", "input": "1 2", "output": "3"}
    samples, _ = read(write(tmp_path / "train.jsonl", row))
    assert turns(samples[0]) == [
        ("system", "Be brief."),
        ("user", "Add.\n\n1 2"),
        ("assistant", "3"),
    ]


def test_fields_name_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"q": "What?", "a": "That."})
    samples, reader = read(path, fields={"prompt": "q", "response": "a"})
    assert [m["content"] for m in samples[0]["messages"]] == ["What?", "That."]
    assert reader.reports[0].columns == {"prompt": "q", "response": "a"}


def test_columns_that_not_every_row_has_are_named_by_fields(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "facts": "Gangs.", "persona": "Be brief."}]
    path = write(tmp_path / "train.jsonl", *rows)
    samples, _ = read(path, fields={"input": "facts", "system": "persona"})
    asked = rows[0]["prompt"]
    assert turns(samples[0])[0] == ("user", asked)
    assert turns(samples[1])[:2] == [("system", "Be brief."), ("user", f"{asked}\n\nGangs.")]
    tools = [{"type": "function", "function": {"name": "add"}}]
    path = write(tmp_path / "chat.jsonl", CHAT, *[CHAT] * 20, {**CHAT, "functions": tools})
    samples, _ = read(path, fields={"tools": "functions"})
    assert [sample["tools"] for sample in samples[:-1]] == [""] * 21
    assert json.loads(samples[-1]["tools"]) == tools


@pytest.mark.parametrize("role", ["tools", "input", "system"])
def test_a_column_that_no_row_of_the_source_has_is_named_by_its_field(
    tmp_path: Path, role: str
) -> None:
    path = write(tmp_path / "train.jsonl", CHAT if role == "tools" else PAIR)
    with pytest.raises(BadData) as caught:
        read(path, fields={role: "tolls"})
    assert caught.value.message == f"spec.data.train[0].fields.{role}: no row has a column 'tolls'"


def test_a_group_alone_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {**CHAT, "ticket": 1}, {**CHAT, "ticket": 1})
    samples, reader = read(path, fields={"group": "ticket"})
    assert samples[0]["group"] == samples[1]["group"] != 0
    assert reader.reports[0].format == "Chat"


@pytest.mark.parametrize("fields", [{"prompt": "q", "response": "a"}, {"input": "facts"}])
def test_auto_takes_the_format_whose_columns_fields_names(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    both = {**CHAT, "q": "What?", "a": "That.", **PAIR, "facts": ""}
    _, reader = read(write(tmp_path / "train.jsonl", both), fields=fields)
    assert reader.reports[0].format == "Instruction"


@pytest.mark.parametrize("column", ["input", "context"])
def test_a_column_that_fields_names_is_not_read_a_second_time(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "train.jsonl", {column: "What?", "output": "That."})
    samples, reader = read(path, fields={"prompt": column, "response": "output"})
    assert turns(samples[0]) == [("user", "What?"), ("assistant", "That.")]
    assert reader.reports[0].columns == {"prompt": column, "response": "output"}


def test_auto_takes_the_format_of_most_rows_and_says_of_how_many(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"text": "odd"}, PAIR, "{", PAIR, PAIR)
    samples, reader = read(path)
    assert reader.reports[0].format == "Instruction"
    assert reader.reports[0].decided == "columns 'prompt' and 'response' in 3 of the first 4 rows"
    assert [(r["line"], r["rule"]) for r in rejects(path)] == [(1, "brokenRows"), (3, "brokenRows")]
    assert len(samples) == 3


def test_sharegpt_conversations_are_understood(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "What?"},
            {"from": "gpt", "value": "That."},
        ]
    }
    samples, reader = read(write(tmp_path / "train.jsonl", row))
    assert reader.reports[0].format == "Chat"
    assert turns(samples[0]) == [
        ("system", "Be brief."),
        ("user", "What?"),
        ("assistant", "That."),
    ]


def test_messages_as_json_text_in_a_cell_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["messages"], [json.dumps(CHAT["messages"])]])
    samples, _ = read(path)
    assert turns(samples[0]) == [("user", "What?"), ("assistant", "That.")]


def test_content_in_parts_becomes_one_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    samples, _ = read(write(tmp_path / "train.jsonl", messages(("user", parts))))
    assert turns(samples[0]) == [("user", "one\ntwo")]


def test_tools_and_tool_calls_are_kept_for_the_template(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "messages": [
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "name": "add", "content": "1"},
            {"role": "assistant", "content": "One."},
        ],
    }
    samples, reader = read(write(tmp_path / "train.jsonl", row))
    assert reader.accounts[0].dropped == {}
    assert json.loads(samples[0]["tools"])[0]["function"]["name"] == "add"
    assert json.loads(samples[0]["messages"][1]["extra"]) == {"tool_calls": [call]}
    assert json.loads(samples[0]["messages"][2]["extra"]) == {"name": "add"}


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("nai\u0308ve", "naïve"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\u0000b\x1b[0m\ufeff", "ab[0m"),
        (" a\n", "a"),
        ("🙂 \t 你好", "🙂 \t 你好"),
    ],
)
def test_text_is_normalized_and_changed_rows_are_counted(
    tmp_path: Path, given: str, clean: str
) -> None:
    path = write(tmp_path / "train.jsonl", CHAT, {"messages": [{"role": "user", "content": given}]})
    samples, reader = read(path)
    assert turns(samples[1]) == [("user", clean)]
    assert reader.accounts[0].changed == (given != clean)
    samples, reader = read(path, Cleaning(normalize="None"))
    assert turns(samples[1]) == [("user", given)]
    assert reader.accounts[0].changed == 0


def test_ids_and_groups_are_hashes_of_their_columns(tmp_path: Path) -> None:
    rows = [{**PAIR, "id": 7, "fact": "a"}, {**PAIR, "id": "7", "fact": "b"}, PAIR]
    path = write(tmp_path / "train.jsonl", *rows)
    samples, _ = read(path, fields={"prompt": "prompt", "response": "response", "group": "fact"})
    assert samples[0]["id"] == samples[1]["id"] != 0
    assert len({sample["group"] for sample in samples}) == 3
    assert (samples[2]["id"], samples[2]["group"]) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ({"format": "Chat"}, "fields.messages", "its columns are prompt, response"),
        ({"fields": {"prompt": "question"}}, "fields.prompt", "its columns are prompt, response"),
    ],
)
def test_a_column_that_is_not_there_is_named_by_its_field(
    tmp_path: Path, settings: dict[str, Any], field: str, says: str
) -> None:
    path = write(tmp_path / "train.jsonl", PAIR)
    with pytest.raises(BadData) as caught:
        read(path, **settings)
    assert caught.value.message.startswith(f"spec.data.train[0].{field}")
    assert caught.value.hint == says


def test_unknown_columns_are_listed(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="Auto finds no known format") as caught:
        read(write(tmp_path / "train.jsonl", {"foo": 1}))
    assert "its columns are foo" in str(caught.value.hint)


def test_the_key_of_a_sample_ignores_unicode_form_and_outer_white_space() -> None:
    assert content_key("naïve") == content_key(" nai\u0308ve\n")
    assert content_key("a") != content_key("b")
    chat = [{"role": "user", "content": "a"}]
    assert content_key(chat) != content_key([{"role": "assistant", "content": "a"}])
