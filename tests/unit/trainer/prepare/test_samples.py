"""From files to samples: formats, field mapping, and faults that name file and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.config import Cleaning, DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.cleaning.rejects import Ledger
from finetune_trainer.prepare.rows import MAX_ROW_BYTES, file_kind, read_rows
from finetune_trainer.prepare.samples import SampleReader, content_key
from finetune_trainer.prepare.sources import locate

CHAT = {
    "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
}
PAIR = {"prompt": "What?", "response": "That."}
CLEANING = Cleaning()


def source(path: Path, **settings: Any) -> DataSource:
    return DataSource(name="facts", field="spec.data.train[0]", path=str(path), **settings)


def read(
    path: Path, cleaning: Cleaning = CLEANING, **settings: Any
) -> tuple[list[dict[str, Any]], SampleReader]:
    wanted = source(path, **settings)
    ledger = Ledger(path.with_name("rejects.jsonl"), cleaning)
    located = locate(wanted, path.parent / "scratch", 10**6)
    reader = SampleReader([(wanted, located)], ledger, cleaning)
    samples = list(reader)
    ledger.close()
    return samples, reader


def rejects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.with_name("rejects.jsonl").read_text().splitlines()]


def turns(sample: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in sample["messages"]]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


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


def test_every_file_kind_gives_the_same_samples(tmp_path: Path) -> None:
    line = json.dumps(PAIR).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line)
    (tmp_path / "b.json").write_text(json.dumps([PAIR]))
    (tmp_path / "c.csv").write_text("prompt,response\nWhat?,That.\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR]), tmp_path / "d.parquet")
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(line))
    (tmp_path / "f.jsonl.bz2").write_bytes(bz2.compress(line))
    with pyarrow.output_stream(tmp_path / "g.jsonl.zst", compression="zstd") as stream:
        stream.write(line)
    (tmp_path / "h.jsonl").write_bytes(b"\xef\xbb\xbf" + line)
    (tmp_path / "notes.md").write_text("not data")
    samples, reader = read(tmp_path)
    assert len(samples) == 8
    assert len({sample["key"] for sample in samples}) == 1
    assert [name[0] for name in reader.reports[0].files] == list("abcdefgh")


def test_a_file_without_a_telling_name_is_recognised(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR]), tmp_path / "x")
    (tmp_path / "y").write_text(json.dumps(PAIR))
    assert [len(list(read_rows(tmp_path / name, name))) for name in "xy"] == [1, 1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("data/a.JSONL.gz", "jsonl"),
        ("a.v2.csv.zst", "csv"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("a.gz", None),
        ("README", None),
    ],
)
def test_the_name_tells_the_kind(name: str, kind: str | None) -> None:
    assert file_kind(name) == kind


def messages(*turns: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


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


def test_not_a_number_is_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", PAIR, '{"prompt": "a", "response": NaN, "score": NaN}')
    samples, _ = read(path)
    assert len(samples) == 1
    assert [(r["rule"], r["reason"]) for r in rejects(path)] == [
        ("emptyAnswers", "response is missing")
    ]


def test_empty_answers_may_be_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", PAIR, {"prompt": "a", "response": ""})
    samples, reader = read(path, Cleaning(emptyAnswers="Report"))
    assert len(samples) == 2
    assert reader.accounts[0].reported == {"emptyAnswers": 1}
    assert rejects(path)[0]["action"] == "reported"


def test_a_row_of_ten_megabytes_is_read_and_a_boundless_one_is_not(tmp_path: Path) -> None:
    large = {"prompt": "a", "response": "b" * 10 * 2**20}
    boundless = {"prompt": "a", "response": "b" * MAX_ROW_BYTES}
    path = write(tmp_path / "train.jsonl", PAIR, large, boundless, PAIR)
    samples, _ = read(path)
    assert len(samples) == 3
    assert [(r["line"], r["reason"]) for r in rejects(path)] == [
        (3, "the row is larger than 32 MiB")
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.json"])
def test_line_ends_and_byte_order_marks_do_not_matter(
    tmp_path: Path, name: str, mark: bytes, line_end: str
) -> None:
    lines = ["prompt,response", "What?,That."] if name == "train.csv" else [json.dumps(PAIR)]
    (tmp_path / name).write_bytes(mark + "".join(f"{line}{line_end}" for line in lines).encode())
    samples, _ = read(tmp_path / name)
    assert [turns(sample) for sample in samples] == [[("user", "What?"), ("assistant", "That.")]]


def test_a_cell_of_a_parquet_file_that_is_not_utf_8_costs_its_row_only(tmp_path: Path) -> None:
    good, bad = pyarrow.array([b"What?", b"\xff", b"Who?"]), pyarrow.array(["a", "b", "c"])
    damaged = pyarrow.StringArray.from_buffers(3, good.buffers()[1], good.buffers()[2])
    table = pyarrow.table({"prompt": damaged, "response": bad})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    samples, reader = read(tmp_path / "train.parquet")
    assert len(samples) == 2
    assert reader.accounts[0].dropped == {"encoding": 1}
    assert rejects(tmp_path / "train.parquet")[0]["row"] == 2


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


# Of no moment in time: workers must agree on the names of the tests.
_HALF_AN_ARCHIVE = gzip.compress(b'{"text": "a"}' * 500, mtime=0)[:40]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.jsonl", b"", "train.jsonl is empty"),
        ("train.jsonl", b"\n\n", "no rows in train.jsonl"),
        ("train.json", b'[{"text": "\xff"}]', "train.json is not UTF-8"),
        ("train.json", b'[{"text": "a"},]', "train.json is not valid JSON"),
        ("train.jsonl", '{"text": "a"}'.encode("utf-16"), "train.jsonl is UTF-16 text"),
        ("train.jsonl", b"\x7fELF\0\0\0", "train.jsonl is binary"),
        ("train.csv", b'text\na\n"b\nc\n', "the row behind line 2 is not valid CSV (unexp"),
        ("train.csv", b"text,text\na,b\n", "train.csv: the header names 'text' twice"),
        ("train.parquet", b"PAR1 and then nothing", "train.parquet cannot be read"),
        ("train.jsonl.gz", _HALF_AN_ARCHIVE, "train.jsonl.gz cannot be"),
        ("train.doc", b"\xd0\xcf", "train.doc is no data file"),
    ],
)
def test_an_unusable_file_is_named_and_nothing_of_it_is_used(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData) as caught:
        read(tmp_path / name)
    assert caught.value.message.startswith("spec.data.train[0].uri: ")
    assert says in caught.value.message


def test_a_source_without_a_readable_row_says_what_its_first_row_is(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("prompt;response\na;b\n")
    with pytest.raises(BadData, match=r"no row can be read; train.jsonl line 1: not valid JSON"):
        read(tmp_path / "train.jsonl")


def test_a_path_without_anything_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text("{}")
    with pytest.raises(
        BadData, match=r"spec.data.train\[0\].uri: nothing at train.jsonl"
    ) as caught:
        read(tmp_path / "train.jsonl")
    assert "there are: other.jsonl" in str(caught.value.hint)


def test_a_file_that_is_not_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(BadData, match=r"spec.data.train\[0\].file: b.jsonl does not exist"):
        read(tmp_path, file="b.jsonl")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        (["data/train-00000-of-00002.parquet", "data/test-0.parquet"], ["data/train-"]),
        (["a.jsonl", "validation.jsonl"], ["a.jsonl"]),
        (["eval.jsonl"], ["eval.jsonl"]),
        (["b.csv", "a.csv", ".hidden/c.csv"], ["a.csv", "b.csv"]),
    ],
)
def test_of_a_folder_with_splits_the_train_part_is_read(
    tmp_path: Path, names: list[str], chosen: list[str]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    located = locate(source(tmp_path), tmp_path / "scratch", 10**6)
    assert len(located.files) == len(chosen)
    assert all(f.name.startswith(c) for f, c in zip(located.files, chosen, strict=True))


def test_the_key_of_a_sample_ignores_unicode_form_and_outer_white_space() -> None:
    assert content_key("naïve") == content_key(" nai\u0308ve\n")
    assert content_key("a") != content_key("b")
    chat = [{"role": "user", "content": "a"}]
    assert content_key(chat) != content_key([{"role": "assistant", "content": "a"}])
