"""From files to samples: formats, field mapping, and faults that name file and line."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.config import DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import file_kind, read_rows
from finetune_trainer.prepare.samples import SampleReader, content_key
from finetune_trainer.prepare.sources import locate

CHAT = {
    "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
}
PAIR = {"prompt": "What?", "response": "That."}


def source(path: Path, **settings: Any) -> DataSource:
    return DataSource(name="facts", field="spec.data.train[0]", path=str(path), **settings)


def read(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], SampleReader]:
    wanted = source(path, **settings)
    reader = SampleReader([(wanted, locate(wanted, path.parent / "scratch", 10**6))])
    return list(reader), reader


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
    assert samples[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add.\n\n1 2"},
        {"role": "assistant", "content": "3"},
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
    ("bad", "fault"),
    [
        ('{"prompt": ', "not valid JSON (Expecting value"),
        ("[1]", "a row must be a JSON object"),
        ({"messages": "hi"}, "messages must be a list of messages"),
        ({"messages": []}, "messages must be a list of messages"),
        ({"messages": [{"from": "human"}]}, "messages[0] must have role and content"),
        (messages(("human", "hi")), "messages[0].role is 'human'; use system, user"),
        (messages(("user", 5)), "messages[0].content must be text, not int"),
        (messages(("user", "a"), ("assistant", " ")), "messages[1].content is empty"),
        (messages(("assistant", "a")), "must begin with the user"),
        (messages(("user", "a"), ("system", "b")), "messages[1]: a system message must come first"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, bad: object, fault: str) -> None:
    path = write(tmp_path / "train.jsonl", CHAT, "", bad)
    with pytest.raises(BadData) as caught:
        read(path)
    assert caught.value.message.startswith("spec.data.train[0]: train.jsonl line 3: ")
    assert fault in caught.value.message


def test_several_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", CHAT, "{", "{", CHAT, "{", "{")
    with pytest.raises(BadData) as caught:
        read(path)
    assert [f"line {n}:" in caught.value.message for n in (2, 3, 5, 6)] == [True, True, True, False]


def test_a_missing_cell_of_a_csv_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('prompt,response\n"two\nlines",ok\nalone\n')
    with pytest.raises(BadData, match=r"train.csv line 4: response is missing"):
        read(path)


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


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.jsonl", b"", "train.jsonl is empty"),
        ("train.jsonl", b"\n\n", "no rows in train.jsonl"),
        ("train.jsonl", b'{"text": "\xff"}', "train.jsonl is not UTF-8"),
        ("train.parquet", b"PAR1 and then nothing", "train.parquet cannot be read"),
        ("train.jsonl.gz", gzip.compress(b'{"text": "a"}' * 500)[:40], "train.jsonl.gz cannot be"),
        ("train.doc", b"\xd0\xcf", "train.doc is no data file"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData) as caught:
        read(tmp_path / name)
    assert caught.value.message.startswith("spec.data.train[0].uri: ")
    assert says in caught.value.message


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
