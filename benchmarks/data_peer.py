"""The peer of prepare: a pipeline of ``datasets`` that does the same work, written to be fast.

Every step runs in batches and, where it looks at single rows, in as many processes as prepare has.
It follows prepare's rules: NFC and line ends, empty answers, exact duplicates by SHA-256, outliers
of length and ratio, near duplicates by MinHash with a real comparison, 5 % held out by content,
leaks between the sides, chat template with the answer as target, best-fit packing. It takes what
prepare does not: well-formed rows of one turn each, in one file. It writes no report, no list of
rejected rows and no hashes of its files.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
from rensa import RMinHash  # type: ignore[import-untyped]
from transformers import AutoTokenizer

from finetune_trainer.prepare.pack import pack

HASHES, BANDS, SIMILARITY, PIECE = 128, 16, 0.85, 8
HELD_OUT = 0.05

_LINE_ENDS = re.compile(r"\r\n?")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
_Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Prepared:
    """What the pipeline made of its rows."""

    kept: int
    held_out: int
    near_duplicates: int
    leaked: int
    tokens: int
    packed_rows: int
    all_tokens: int
    """Of both sides."""
    all_targets: int


@dataclass(frozen=True)
class Side:
    rows: int
    tokens: int
    targets: int
    packed_rows: int


def prepare(rows: Path, model: Path, folder: Path, length: int, processes: int) -> Prepared:
    """All steps, from the file ``rows`` to packed data sets in ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    several = processes if processes > 1 else None
    data = datasets.load_dataset(
        "json", data_files=str(rows), split="train", cache_dir=str(folder / "cache")
    )
    data = data.map(_clean, batched=True, num_proc=several)
    data = data.select(_first_ones(data))
    _outliers(data)
    bands = data.map(
        _sketch, batched=True, num_proc=several, remove_columns=data.column_names
    ).with_format("numpy")
    pairs = _alike(data, bands)
    held = np.asarray(data["key"][:]) % 1000 < 1000 * HELD_OUT
    leaked = {tuple(sorted(pair)) for pair in pairs if held[pair[0]] != held[pair[1]]}
    made = {}
    for side, numbers in (("train", np.flatnonzero(~held)), ("eval", np.flatnonzero(held))):
        tokens = data.select(numbers).map(
            _tokenize,
            batched=True,
            num_proc=several,
            fn_kwargs={"tokenizer": tokenizer, "length": length},
            remove_columns=data.column_names,
        )
        made[side] = _packed(tokens, length, folder / side)
    return Prepared(
        kept=made["train"].rows,
        held_out=made["eval"].rows,
        near_duplicates=len({max(pair) for pair in pairs}),
        leaked=len(leaked),
        tokens=made["train"].tokens,
        packed_rows=made["train"].packed_rows,
        all_tokens=sum(side.tokens for side in made.values()),
        all_targets=sum(side.targets for side in made.values()),
    )


def _clean(batch: _Columns) -> _Columns:
    found: _Columns = {"messages": [], "key": [], "chars": [], "ratio": []}
    for messages in batch["messages"]:
        turns = [{**turn, "content": _normalized(turn["content"])} for turn in messages]
        if not turns[-1]["content"]:
            continue
        said = json.dumps([[turn["role"], turn["content"]] for turn in turns])
        digest = hashlib.sha256(said.encode()).digest()
        prompt, answer = (len(turns[at]["content"]) for at in (0, -1))
        found["messages"].append(turns)
        found["key"].append(int.from_bytes(digest[:8]) >> 1)
        found["chars"].append(prompt + answer)
        found["ratio"].append((answer + 1) / (prompt + 1))
    return found


def _normalized(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text)).strip()


def _first_ones(data: Any) -> Any:
    """Rows whose content no earlier row has."""
    _, first = np.unique(np.asarray(data["key"][:]), return_index=True)
    return np.sort(first)


def _outliers(data: Any) -> int:
    """How many rows are of unusual length or ratio: they are only counted."""
    unusual = np.zeros(len(data), dtype=bool)
    for column in ("chars", "ratio"):
        logs = np.log(np.asarray(data[column][:], dtype=np.float64) + 1e-9)
        away = np.abs(logs - np.median(logs))
        unusual |= away > max(5 * 1.4826 * float(np.median(away)), np.log(4))
    return int(unusual.sum())


def _pieces(messages: list[dict[str, str]]) -> set[bytes]:
    text = " ".join("\n".join(turn["content"] for turn in messages).lower().split()).encode()
    return {text[at : at + PIECE] for at in range(max(1, len(text) - PIECE + 1))}


def _sketch(batch: _Columns) -> _Columns:
    pieces = [list(_pieces(messages)) for messages in batch["messages"]]
    matrix = RMinHash.digest_matrix_from_token_byte_sets(pieces, HASHES, 42).to_rows()
    hashes = np.asarray(matrix, dtype=np.uint64).reshape(len(pieces), BANDS, -1)
    odd = np.uint64(0x9E3779B97F4A7C15)
    bands = np.zeros(hashes.shape[:2], dtype=np.uint64)
    for column in range(hashes.shape[2]):
        bands = (bands ^ hashes[:, :, column]) * odd
    return {"bands": list(bands.view(np.int64))}


def _alike(data: Any, bands: Any) -> set[tuple[int, int]]:
    """Pairs of rows that share at least ``SIMILARITY`` of their pieces."""
    matrix = np.stack(bands["bands"][:]) if len(bands) else np.zeros((0, BANDS), dtype=np.int64)
    candidates: set[tuple[int, int]] = set()
    for column in matrix.T:
        rows_of: dict[int, list[int]] = defaultdict(list)
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        for row in np.flatnonzero(counts[inverse] > 1).tolist():
            rows_of[int(inverse[row])].append(row)
        for rows in rows_of.values():
            candidates |= {(rows[0], row) for row in rows[1:]}
            candidates |= set(pairwise(rows))
    numbers = sorted({row for pair in candidates for row in pair})
    messages_of = dict(zip(numbers, data.select(numbers)["messages"], strict=True))
    alike = set()
    for one, other in candidates:
        a, b = _pieces(messages_of[one]), _pieces(messages_of[other])
        if len(a & b) >= SIMILARITY * len(a | b):
            alike.add((one, other))
    return alike


def _tokenize(batch: _Columns, tokenizer: Any, length: int) -> _Columns:
    texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
    asked = [messages[:-1] for messages in batch["messages"]]
    prompts = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    found: _Columns = {"input_ids": [], "supervised": [], "length": [], "targets": []}
    for ids, offsets, prompt in zip(
        encoded["input_ids"], encoded["offset_mapping"], prompts, strict=True
    ):
        learnt = [int(end > len(prompt)) for _, end in offsets][:length]
        # The line break behind the end of the turn is no target.
        if len(ids) <= length and learnt:
            learnt[-1] = 0
        if not any(learnt):
            continue
        found["input_ids"].append(ids[:length])
        found["supervised"].append(learnt)
        found["length"].append(len(learnt))
        found["targets"].append(sum(learnt))
    return found


def _packed(tokens: Any, length: int, folder: Path) -> Side:
    lengths = np.asarray(tokens["length"][:]).tolist()
    targets = int(np.asarray(tokens["targets"][:]).sum())
    rows = pack(lengths, length)

    # As Arrow: lists of Python numbers would cost more than everything else here.
    plain = tokens.select_columns(["input_ids", "supervised", "length"]).with_format("arrow")

    def merged() -> Iterator[dict[str, Any]]:
        for row in rows:
            found = plain[row]
            yield {
                "input_ids": found.column("input_ids").combine_chunks().flatten().to_numpy(),
                "supervised": found.column("supervised").combine_chunks().flatten().to_numpy(),
                "lengths": found.column("length").to_numpy(),
            }

    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int32")),
            "supervised": datasets.List(datasets.Value("uint8")),
            "lengths": datasets.List(datasets.Value("int32")),
        }
    )
    packed = datasets.Dataset.from_generator(
        merged, features=features, cache_dir=str(folder), fingerprint=folder.name
    )
    return Side(len(lengths), sum(lengths), targets, len(packed))
