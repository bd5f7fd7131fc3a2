"""From samples to token segments: template, mask, and the policy for what is too long.

Part after part, so memory stays flat, and the result is a mapped Arrow file. Nothing is lost in
silence: each sample ends as kept, cut, split or dropped under a named rule.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pyarrow  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import Data
from finetune_trainer.errors import BadData, ModelLoad
from finetune_trainer.prepare.cleaning.rules import (
    MEANINGS,
    NO_TARGETS,
    NO_TARGETS_IN_LENGTH,
    TEMPLATE_REFUSALS,
    TOO_LONG,
)
from finetune_trainer.prepare.encode import Encoded, Encoder, Mask, Written
from finetune_trainer.prepare.formats import SourceReport
from finetune_trainer.prepare.lists import Lists
from finetune_trainer.prepare.segments import FEATURES, Segments
from finetune_trainer.prepare.store import Segment
from finetune_trainer.prepare.template import ChatRenderer, Message, TemplateError
from finetune_trainer.prepare.workers import in_order

_AT_ONCE = 250
"""Rows: few, so that a share that is held out keeps all processes busy, too."""
MAX_REASON = 400
"""Characters: a template may say anything."""
Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]

_COLUMNS = ["source", "place", "messages", "text", "tools"]


@dataclass
class Tokenized:
    """The segments of one split, mapped from disk, and what became of its samples."""

    table: datasets.Dataset
    kept: Ints
    """Rows of the table that are segments; the others record a dropped sample."""
    lengths: Ints
    """Tokens of each kept segment, in the order of ``kept``."""
    samples: Ints
    """Number of the sample behind each kept segment."""
    supervised: int
    dropped: list[tuple[int, str, str]] = field(default_factory=list)
    """(sample, rule, reason) of each sample that is left out."""
    truncated: int = 0
    """Samples whose end was cut off."""
    end_of_turn: int | None = None
    """The token that most answers end with."""

    def targets(self) -> npt.NDArray[np.int32]:
        """Targets of each kept segment, in the order of ``kept``."""
        counts: npt.NDArray[np.int32] = self.table.data.column("targets").to_numpy()
        return counts[self.kept]

    def segment(self, place: int) -> Segment:
        """The segment at this place of ``kept``."""
        row = int(self.kept[place])
        return Segment(self._ids[row], self._supervised[row], int(self.samples[place]))

    def segments(self, places: Ints) -> tuple[Tokens, Mask, Ints]:
        """Tokens and mask of the segments at these places, at least one, back to back; and the
        length of each."""
        ids, lengths = self._ids.together(self.kept[places])
        return ids, self._supervised.together(self.kept[places])[0], lengths

    @cached_property
    def _ids(self) -> Lists:
        return Lists(self.table.data.column("input_ids"))

    @cached_property
    def _supervised(self) -> Lists:
        return Lists(self.table.data.column("supervised"))


class Tokenization:
    """How samples of a job become token ids: template, ``lossOn``, length and policy."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        data: Data,
        plain: set[int],
        end_of_turn: tuple[int, ...] = (),
        vocabulary: int | None = None,
    ) -> None:
        """``plain``: numbers of the sources that are written without a chat template;
        ``vocabulary``: how many tokens the model knows."""
        self._vocabulary = vocabulary
        self._data = data
        self._plain = plain
        self._encoder = Encoder(tokenizer, end_of_turn)
        self._renderer = ChatRenderer(tokenizer) if tokenizer.chat_template else None

    def encode(self, source: int, messages: list[Message], text: str, tools: Any = None) -> Encoded:
        """One sample. Raises ``TemplateError``."""
        return self._encoder.sample(self._write(source, messages, text, tools))

    def _write(self, source: int, messages: list[Message], text: str, tools: Any = None) -> Written:
        if not messages:
            return Written(None, text=text)
        if source in self._plain:
            *prompt, answer = [message["content"] for message in messages]
            return Written(None, prompt="\n\n".join(prompt) + "\n\n", text=answer)
        if self._renderer is None:
            raise TemplateError("the model has no chat template")
        rendered = self._renderer.render(messages, tools)
        if self._data.loss_on == "All":
            return Written(rendered)
        spans = rendered.spans[-1:] if self._data.loss_on == "Response" else rendered.spans
        return Written(rendered, spans)

    def words(self, source: int, messages: list[Message]) -> list[tuple[bool, str]]:
        """The texts of a conversation in order, and whether each is learnt; empty where the mask
        asks for no turn in particular."""
        told = [(message["role"], message["content"]) for message in messages]
        if source in self._plain:
            learnt = {len(told) - 1}
        elif self._data.loss_on == "All":
            return []
        else:
            answers = [at for at, (role, _) in enumerate(told) if role == "assistant"]
            learnt = set(answers[-1:] if self._data.loss_on == "Response" else answers)
        return [(at in learnt, text) for at, (_, text) in enumerate(told)]

    def prompt(self, source: int, messages: list[Message], tools: Any = None) -> list[int]:
        """What asks for the next assistant turn of a conversation. Raises ``TemplateError``."""
        if source in self._plain:
            text = "".join(message["content"] + "\n\n" for message in messages)
            return self._encoder.prompt(text, plain=True)
        if self._renderer is None:
            raise TemplateError("the model has no chat template")
        return self._encoder.prompt(self._renderer.prompt(messages, tools), plain=False)

    def batch(
        self, columns: dict[str, list[Any]], numbers: Sequence[int], fields: list[str]
    ) -> pyarrow.RecordBatch:
        """A batch of samples, of these numbers, to a batch of segments and drop records."""
        segments = Segments()
        places = [
            f"{fields[source]}: {place}"
            for source, place in zip(columns["source"], columns["place"], strict=True)
        ]
        written = list(self._written(columns))
        encodings = self._encoder.samples(each for each in written if isinstance(each, Written))
        for number, place, each in zip(numbers, places, written, strict=True):
            if isinstance(each, TemplateError):
                segments.refuse(number, TEMPLATE_REFUSALS, str(each)[:MAX_REASON])
                continue
            encoded = next(encodings)
            self._check_vocabulary(encoded, place)
            for piece, rule, cut in self._fit(encoded, place):
                segments.add(piece, number, rule, cut)
        return segments.record()

    def _written(self, columns: dict[str, list[Any]]) -> Iterator[Written | TemplateError]:
        """The samples as texts, or why the template refuses one."""
        names = ("source", "messages", "text", "tools")
        for source, messages, text, tools in zip(*map(columns.get, names), strict=True):
            turns = [with_extra(message) for message in messages]
            try:
                yield self._write(source, turns, text, json.loads(tools) if tools else None)
            except TemplateError as error:
                yield error

    def _check_vocabulary(self, encoded: Encoded, place: str) -> None:
        highest = int(encoded.input_ids.max(initial=0))
        if self._vocabulary is not None and highest >= self._vocabulary:
            raise ModelLoad(
                f"spec.model.uri: tokenizer and model do not belong together: {place} has token "
                f"{highest}, and the model knows {self._vocabulary}",
                "take tokenizer and weights from the same model, or give its embeddings more rows",
            )

    def _fit(self, encoded: Encoded, place: str) -> Iterator[tuple[Encoded, str | None, bool]]:
        """The sample in pieces of at most the sequence length: (piece, drop rule, cut)."""
        length, limit = len(encoded.input_ids), self._data.sequence_length
        if not encoded.supervised.any():
            yield encoded, NO_TARGETS, False
        elif length <= limit:
            yield encoded, None, False
        elif self._data.overlong == "Fail":
            raise BadData(
                f"{place}: {length} tokens, spec.data.sequenceLength is {limit}",
                "raise sequenceLength, or set overlong to Truncate, Drop or Split",
            )
        elif self._data.overlong == "Drop":
            yield encoded, TOO_LONG, False
        else:
            stop = limit if self._data.overlong == "Truncate" else length
            pieces = [_slice(encoded, at, at + limit) for at in range(0, stop, limit)]
            usable = [piece for piece in pieces if piece.supervised.any()]
            if not usable:
                yield encoded, NO_TARGETS_IN_LENGTH, False
            for piece in usable:
                yield piece, None, self._data.overlong == "Truncate"


def tokenize_split(
    samples: datasets.Dataset,
    tokenization: Tokenization,
    fields: list[str],
    scratch: Path,
    processes: int = 1,
) -> Tokenized:
    """Tokenise all ``samples`` of one split into a file below ``scratch``.

    ``fields`` are the paths of the sources in the job, for messages. Raises ``BadData``.
    """
    if not len(samples):
        # The library hands an empty table back as it is, with the wrong columns.
        table = datasets.Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
        none = np.zeros(0, dtype=np.int64)
        return Tokenized(table, none, none, none, 0)
    chosen = samples.select_columns(_COLUMNS)

    def tokenized(part: range) -> pyarrow.RecordBatch:
        return tokenization.batch(chosen[part.start : part.stop], part, fields)

    parts = (
        range(start, min(start + _AT_ONCE, len(samples)))
        for start in range(0, len(samples), _AT_ONCE)
    )
    path, schema = scratch / "segments.arrow", FEATURES.arrow_schema
    scratch.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for batch in in_order(tokenized, parts, processes):
            writer.write_batch(batch)
    table = datasets.Dataset.from_file(str(path))
    rules = table.data.column("rule")
    dropped = np.flatnonzero(rules.is_valid().to_numpy())
    kept = np.flatnonzero(rules.is_null().to_numpy())
    numbers = table.data.column("sample").to_numpy().astype(np.int64)
    ends = Counter(table.data.column("last_target").to_numpy()[kept].tolist())
    return Tokenized(
        table=table.with_format("numpy"),
        kept=kept,
        lengths=table.data.column("length").to_numpy()[kept].astype(np.int64),
        samples=numbers[kept],
        supervised=int(table.data.column("targets").to_numpy()[kept].sum()),
        dropped=_dropped(table, dropped),
        truncated=int(table.data.column("cut").to_numpy().sum()),
        end_of_turn=ends.most_common(1)[0][0] if ends else None,
    )


def _dropped(table: datasets.Dataset, rows: Ints) -> list[tuple[int, str, str]]:
    samples, rules, reasons = (
        table.data.column(name).take(rows).to_pylist() for name in ("sample", "rule", "reason")
    )
    return [
        (sample, rule, reason or MEANINGS[rule])
        for sample, rule, reason in zip(samples, rules, reasons, strict=True)
    ]


def plain_sources(tokenizer: Tokenizer, reports: list[SourceReport]) -> set[int]:
    """Sources to write without a template: prompt and response where the model has no template."""
    if tokenizer.chat_template:
        return set()
    return {i for i, report in enumerate(reports) if report.format == "Instruction"}


def with_extra(message: dict[str, str]) -> Message:
    """A message as templates know it; what it holds besides role and content is JSON in samples."""
    turn: Message = {"role": message["role"], "content": message["content"]}
    if message["extra"]:
        turn |= json.loads(message["extra"])
        for call in turn.get("tool_calls", ()):
            _parse_arguments(call.get("function", call))
    return turn


def _parse_arguments(function: dict[str, Any]) -> None:
    # Hosted chats have the arguments as text; templates would write that text as a string.
    if isinstance(arguments := function.get("arguments"), str):
        with contextlib.suppress(ValueError):
            function["arguments"] = json.loads(arguments)


def _slice(encoded: Encoded, start: int, end: int) -> Encoded:
    supervised = encoded.supervised[start:end].copy()
    supervised[0] = 0
    return Encoded(encoded.input_ids[start:end], supervised)
