"""Files and folders of a source: kinds, compression, splits, and what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from unit.trainer.prepare.sampled import PAIR, read, source, turns

from finetune_trainer.errors import BadData
from finetune_trainer.prepare.rows import file_kind, read_rows
from finetune_trainer.prepare.sources import locate


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
        ("train.csv", b"text,r\xe9ponse\na,b\n", "train.csv: the header is not UTF-8 text"),
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


def test_the_licence_of_a_mounted_folder_stands_in_its_readme(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(PAIR))
    _, reader = read(tmp_path)
    assert reader.reports[0].licence is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Rows")
    _, reader = read(tmp_path)
    assert reader.reports[0].licence == "cc-by-4.0"


@pytest.mark.parametrize("side", ["eval", "general"])
@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], ["test.jsonl"]),
        (["train.jsonl", "test.jsonl", "validation.jsonl"], ["test.jsonl", "validation.jsonl"]),
        (["train.jsonl", "questions.jsonl"], ["questions.jsonl"]),
        (["train-0.jsonl", "train-1.jsonl"], ["train-0.jsonl", "train-1.jsonl"]),
    ],
)
def test_what_is_only_scored_is_not_read_from_the_train_part(
    tmp_path: Path, side: str, names: list[str], chosen: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    wanted = source(tmp_path).model_copy(update={"field": f"spec.data.{side}[0]"})
    located = locate(wanted, tmp_path / "scratch", 10**6)
    assert [file.name for file in located.files] == chosen
