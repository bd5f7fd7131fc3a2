"""How text is split before byte pairs are merged: the same rule as tokenizers and llama.cpp say it.

A GGUF file holds no rule, but the name of one that llama.cpp has built in (``tokenizer.ggml.pre``).
The name is found by what the tokenizer does, whatever vocabulary it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(numbers: str) -> dict[str, Any]:
    pattern = f"{_CONTRACTIONS}|{_WORDS}|{numbers}|{_REST}"
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


@dataclass(frozen=True)
class PreTokenizer:
    """A rule that llama.cpp knows."""

    name: str
    """Value of ``tokenizer.ggml.pre``."""
    steps: tuple[dict[str, Any], ...]
    """In the form of tokenizer.json."""
    ignore_merges: bool = False
    """Words that are tokens are taken whole, without merging."""

    @property
    def json(self) -> dict[str, Any]:
        steps = [step | _TRIM if step["type"] == "ByteLevel" else step for step in self.steps]
        return {"type": "Sequence", "pretokenizers": steps}


_TRIM = {"trim_offsets": True}
"""Concerns the offsets of tokens alone."""
PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (_byte_level(use_regex=True),)),
    PreTokenizer(
        "smollm",
        ({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)),
    ),
    PreTokenizer("qwen2", (_split(r"\p{N}"), _byte_level(use_regex=False))),
    PreTokenizer("dbrx", (_split(r"\p{N}{1,3}"), _byte_level(use_regex=False))),
    PreTokenizer(
        "llama-bpe", (_split(r"\p{N}{1,3}"), _byte_level(use_regex=False)), ignore_merges=True
    ),
)
BY_NAME = {each.name: each for each in PRE_TOKENIZERS}


def pre_tokenizer_of(tokenizer: dict[str, Any]) -> PreTokenizer | None:
    """``tokenizer``: content of tokenizer.json. None: llama.cpp has no name for its rule."""
    steps = tuple(_steps(tokenizer.get("pre_tokenizer")))
    ignores = bool(tokenizer["model"].get("ignore_merges"))
    return next(
        (each for each in PRE_TOKENIZERS if (each.steps, each.ignore_merges) == (steps, ignores)),
        None,
    )


def _steps(rule: dict[str, Any] | None) -> list[dict[str, Any]]:
    if rule is None:
        return []
    if rule["type"] == "Sequence":
        return [step for each in rule["pretokenizers"] for step in _steps(each)]
    return [{key: value for key, value in rule.items() if key not in _TRIM}]
