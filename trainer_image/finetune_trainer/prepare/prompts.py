"""Prompts from the held-out rows: a conversation up to its last answer."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune_trainer.judging.prompts import MAX_PROMPTS, Prompt
from finetune_trainer.prepare.lists import cells, column_of
from finetune_trainer.prepare.splits import Split
from finetune_trainer.prepare.template import TemplateError
from finetune_trainer.prepare.tokenize import Tokenization, Tokenized, with_extra

log = logging.getLogger(__name__)


def held_out_prompts(
    split: Split, tokenized: Tokenized, tokenization: Tokenization, longest: int
) -> Iterator[Prompt]:
    """At most ``MAX_PROMPTS`` prompts of at most ``longest`` tokens.

    They come in the order of a hash of their content, so the first n of them are a fair sample, and
    stay the same when the data grows a little.
    """
    keys = column_of(split.samples, "key")
    kept = np.unique(tokenized.samples)
    ordered = kept[np.argsort(keys[kept], kind="stable")] if len(kept) else kept
    columns = ("source", "place", "messages", "tools")
    rows = (cells(split.samples, index, *columns) for index in ordered)
    found = (_prompt(row, tokenization) for row in rows)
    fitting = (prompt for prompt in found if prompt and len(prompt.ids) <= longest)
    return itertools.islice(fitting, MAX_PROMPTS)


def _prompt(row: dict[str, Any], tokenization: Tokenization) -> Prompt | None:
    """None where the row has no answer in words, or nothing in front of it."""
    turns = row["messages"]
    last = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    if last == 0 or not turns[last]["content"].strip():
        return None
    messages = [with_extra(turn) for turn in turns[:last]]
    try:
        ids = tokenization.prompt(
            row["source"], messages, json.loads(row["tools"]) if row["tools"] else None
        )
    except TemplateError as error:
        log.warning("%s gives no prompt: %s", row["place"], error)
        return None
    shown = tuple({"role": turn["role"], "content": turn["content"]} for turn in turns[:last])
    return Prompt(row["place"], shown, tuple(ids), turns[last]["content"]) if ids else None
