"""Paired prompts as rows: each answer twice, with the first and with the second term."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.config import Data, PairedPrompts
from finetune_trainer.errors import BadData
from finetune_trainer.judging.paired import PAIRED, sentences
from finetune_trainer.prepare.store import Segment, write_split
from finetune_trainer.prepare.template import TemplateError
from finetune_trainer.prepare.tokenize import Tokenization


def write_paired(
    wish: Sequence[PairedPrompts],
    data: Data,
    tokenizer: Tokenizer,
    end_of_turn: tuple[int, ...],
    folder: Path,
) -> None:
    """Write them as split ``paired`` into ``folder``, one sample a row, in the order of
    ``sentences``. The answer alone is scored, whatever ``lossOn`` says. Raises ``BadData``.
    """
    plain = set() if tokenizer.chat_template else {0}
    answers = data.model_copy(update={"loss_on": "Assistant"})
    tokenization = Tokenization(tokenizer, answers, plain, end_of_turn)
    rows = []
    for number, sentence in enumerate(sentences(wish)):
        turns = [
            {"role": "user", "content": sentence.prompt},
            {"role": "assistant", "content": sentence.answer},
        ]
        try:
            encoded = tokenization.encode(0, turns, "")
        except TemplateError as error:
            raise BadData(
                f"{sentence.field}: {error}", "give a template that fits in spec.model.chatTemplate"
            ) from error
        if len(encoded.input_ids) > data.sequence_length or not encoded.supervised[1:].any():
            raise BadData(
                f"{sentence.field}: {len(encoded.input_ids)} tokens, spec.data.sequenceLength is "
                f"{data.sequence_length}",
                "write a shorter prompt or answer",
            )
        rows.append([Segment(encoded.input_ids, encoded.supervised, number)])
    write_split(folder / PAIRED, rows, sum(len(row[0].input_ids) for row in rows))
