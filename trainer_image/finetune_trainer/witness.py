"""Does the mask cover what shall be learnt, and nothing else? Words against tokens.

Prepare writes down for a few samples what their answers are, in words, as they stand in the source.
The tokens that carry a loss are turned back into text and compared with them: another way than the
one the mask was made, from the rows that training reads.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from finetune_trainer.batches import IGNORE, PackedRow, PackedRows
from finetune_trainer.errors import StageError
from finetune_trainer.loss import shifted_targets

WITNESSES = "witnesses.json"
_SHORTEST = 12
"""Characters of a text that cannot stand in an answer by chance."""


@dataclass(frozen=True)
class Witness:
    """A whole sample in its row, and its words."""

    place: str
    row: int
    segment: int
    learnt: tuple[str, ...]
    """What the model shall say, in order."""
    given: tuple[str, ...]
    """What others say."""
    end: int
    """The token by which the last answer ends."""


def write_witnesses(folder: Path, witnesses: Sequence[Witness]) -> None:
    (folder / WITNESSES).write_text(json.dumps([asdict(each) for each in witnesses], indent=1))


def read_witnesses(folder: Path) -> list[Witness]:
    """Empty where an earlier version prepared the data. Raises ``StageError``."""
    try:
        entries = json.loads((folder / WITNESSES).read_text())
        return [
            Witness(**{**each, "learnt": tuple(each["learnt"]), "given": tuple(each["given"])})
            for each in entries
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StageError(f"{WITNESSES} of the prepared data cannot be read: {error}") from error


def mask_fault(rows: PackedRows, witnesses: Sequence[Witness], tokenizer: Tokenizer) -> str | None:
    """What is wrong with the first witness that disagrees. Not collective."""
    for witness in witnesses:
        row = rows.row(witness.row)
        counted = int((shifted_targets(row.labels[None]) != IGNORE).sum())
        if counted != rows.num_supervised[witness.row]:
            return (
                f"packed row {witness.row} has {counted} tokens to learn, and "
                f"{rows.num_supervised[witness.row]} are counted for it"
            )
        stretches = learnt_tokens(row, witness.segment)
        texts = [tokenizer.decode(each, skip_special_tokens=True) for each in stretches]
        fault = disagreement(witness, texts)
        if fault is not None:
            return fault
        if stretches[-1][-1] != witness.end:
            return f"{witness.place}: the loss does not end with the last token of the answer"
    return None


def learnt_tokens(row: PackedRow, segment: int) -> list[list[int]]:
    """The stretches of a sample that carry a loss, as the loss takes them."""
    starts = [*(row.position_ids == 0).nonzero().flatten().tolist(), len(row.input_ids)]
    labels = row.labels[starts[segment] : starts[segment + 1]]
    stretches: list[list[int]] = [[]]
    for target in shifted_targets(labels[None])[0].tolist():
        if target == IGNORE:
            stretches.append([])
        else:
            stretches[-1].append(target)
    return [each for each in stretches if each]


def disagreement(witness: Witness, stretches: Sequence[str]) -> str | None:
    """Where text that carries a loss is not that of the answers."""
    learnt = "\0".join(map(plain, stretches))
    at = 0
    for answer in map(plain, witness.learnt):
        found = learnt.find(answer, at)
        if found < 0:
            return f"{witness.place}: the loss leaves out a part of the answer {_short(answer)}"
        at = found + len(answer)
    answers = "\0".join(map(plain, witness.learnt))
    for text in map(plain, witness.given):
        if len(text) >= _SHORTEST and text not in answers and text in learnt:
            return f"{witness.place}: the loss covers {_short(text)}, which is no answer"
    return None


def plain(text: str) -> str:
    """Without what tokenizers and templates may change: white space, case, forms of a letter."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def decoder_of(model: Path) -> Tokenizer:
    """Raises ``StageError``."""
    try:
        return Tokenizer.from_file(str(model / "tokenizer.json"))
    except Exception as error:  # the library raises bare exceptions
        raise StageError(f"the prepared tokenizer cannot be read: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
