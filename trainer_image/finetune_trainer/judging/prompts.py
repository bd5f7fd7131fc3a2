"""The prompts of a job: held-out conversations up to their last answer, which is the reference."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.config import Generation
from finetune_trainer.errors import BadData

PROMPTS = "prompts.jsonl"
"""In the folder of the held-out rows."""
MAX_PROMPTS = 1000
"""So many are kept by prepare, whatever the job asks for."""


@dataclass(frozen=True)
class Prompt:
    place: str
    """File and line of its row."""
    messages: tuple[dict[str, Any], ...]
    """Turns with role and content, for people."""
    ids: tuple[int, ...]
    """Tokens that ask for the next assistant turn, as in training."""
    reference: str


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """One JSON object a line, in the order given."""
    lines = (json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def read_prompts(folder: Path, wish: Generation, context_length: int | None) -> list[Prompt]:
    """The first prompts that leave room for an answer. ``folder``: the held-out rows.

    Raises ``BadData`` where there is none.
    """
    try:
        with (folder / PROMPTS).open(encoding="utf-8") as file:
            found = [_prompt(json.loads(line)) for line in file]
    except FileNotFoundError:
        found = []  # prepared by an older version
    if not found:
        raise BadData(
            "spec.evaluation.generation: no held-out row has a prompt and an answer",
            "hold out rows of format Chat or Instruction (spec.data.eval or evalFraction), or "
            "remove evaluation.generation",
        )
    longest = None if context_length is None else context_length - wish.max_new_tokens
    fitting = [each for each in found if longest is None or len(each.ids) <= longest]
    if not fitting:
        raise BadData(
            f"spec.evaluation.generation.maxNewTokens: {wish.max_new_tokens} more tokens behind a "
            f"held-out prompt are more than the model's context of {context_length} tokens",
            f"set it to at most {max(0, context_length - min(len(p.ids) for p in found))}"
            if context_length is not None
            else None,
        )
    return fitting[: wish.max_prompts]


def _prompt(line: dict[str, Any]) -> Prompt:
    return Prompt(line["place"], tuple(line["messages"]), tuple(line["ids"]), line["reference"])
