"""The tokenizer of a model in the words of GGUF, or why it cannot be said in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase as Tokenizer

from finetune_trainer.gguf_export.pretokenizers import PreTokenizer, pre_tokenizer_of

_TRIMS = ("lstrip", "rstrip", "single_word")
_OTHER_KINDS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Keys for tokens that end an answer; llama.cpp knows more of them by their names."""


class UnsupportedError(Exception):
    """GGUF cannot hold this model, or it is not proved that it can."""


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE tokenizer."""

    pre: PreTokenizer
    tokens: list[str]
    """By id: byte-level spelling, or the text itself where the token is added."""
    types: list[TokenType]
    merges: list[str]
    adds_bos: bool


def vocabulary_of(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """``size``: rows of the embedding; ids without a token are filled up. Raises
    ``UnsupportedError``."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if fault := _fault(content):
        raise UnsupportedError(fault)
    pre = pre_tokenizer_of(content)
    if pre is None:
        raise UnsupportedError("llama.cpp has no name for the way its tokenizer splits text")
    vocabulary: dict[str, int] = model["vocab"]
    added = {each["content"]: each for each in content["added_tokens"]}
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [TokenType.UNUSED] * size
    for text, index in vocabulary.items():
        if index >= size:
            raise UnsupportedError(f"token {index} has no row in the embedding of {size}")
        tokens[index], types[index] = text, TokenType.NORMAL
    for text, each in added.items():
        if each["id"] >= size:
            raise UnsupportedError(f"token {each['id']} has no row in the embedding of {size}")
        kind = TokenType.CONTROL if each["special"] else TokenType.USER_DEFINED
        tokens[each["id"]], types[each["id"]] = text, kind
    return Vocabulary(pre, tokens, types, list(_merges(model["merges"])), _adds_bos(tokenizer))


def _fault(content: dict[str, Any]) -> str | None:
    """What no GGUF file of a byte-level BPE tokenizer could say."""
    model, decoder = content["model"], content.get("decoder") or {}
    if model["type"] != "BPE" or model.get("byte_fallback") or decoder.get("type") != "ByteLevel":
        return "its tokenizer is no byte-level BPE"
    if any(model.get(key) for key in _OTHER_KINDS):
        return "its tokenizer drops merges or marks parts of words"
    if (content.get("normalizer") or {"type": "NFC"}) != {"type": "NFC"}:
        return f"its tokenizer changes text first ({content['normalizer']['type']})"
    for token in content["added_tokens"]:
        if any(token[key] for key in _TRIMS):
            return f"its token {token['content']!r} takes white space in, or stands alone only"
    return None


def _merges(merges: list[Any]) -> Iterator[str]:
    for each in merges:
        pair = each.split(" ") if isinstance(each, str) else each
        if len(pair) != 2 or any(" " in part for part in pair):
            raise UnsupportedError(f"its tokenizer merges {pair!r}, which has a space")
        yield " ".join(pair)


def _adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether it puts BOS in front of a text. It may do nothing else."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    if whole not in (bare, [tokenizer.bos_token_id, *bare]):
        raise UnsupportedError("its tokenizer adds other tokens to a text than BOS in front")
    return len(whole) > len(bare)


def add_vocabulary(
    writer: GGUFWriter, vocabulary: Vocabulary, tokenizer: Tokenizer, stops: list[int]
) -> None:
    """``stops``: ids that end an answer, the most important ones first."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre.name)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    own = {
        "bos_token_id": tokenizer.bos_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    ends = dict(zip(_STOPS, stops, strict=False))
    for key, value in (own | ends).items():
        if isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
    if tokenizer.chat_template:
        writer.add_chat_template(_templates(tokenizer.chat_template))


def _templates(template: Any) -> Any:
    if isinstance(template, dict):
        return [{"name": name, "template": text} for name, text in template.items()]
    return template
