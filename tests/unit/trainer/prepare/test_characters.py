"""The tokens of a stretch of text: looked up where they stand in order, searched for elsewhere."""

from __future__ import annotations

import itertools

import pytest
from tiny_models import make_tokenizer
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from finetune_trainer.prepare.characters import InOrder, Listed, keeps_order

TEXTS = (
    "",
    " ",
    "a gang",
    "  A\n\n gang \t",
    "你好 🙂🙂 e\u0301a\u0323\u0307 Å",
    "<|im_start|>user\nx<|im_end|> \n",
)


def backend() -> Tokenizer:
    return make_tokenizer().backend_tokenizer


def trimming() -> Tokenizer:
    tokenizer = backend()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def composing() -> Tokenizer:
    tokenizer = trimming()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@pytest.mark.parametrize("tokenizer", [backend(), trimming(), composing()])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_that_are_looked_up_are_those_that_are_searched_for(
    tokenizer: Tokenizer, text: str
) -> None:
    assert keeps_order(tokenizer)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    looked_up, searched = InOrder(encoding), Listed(encoding.offsets)
    assert [looked_up[token] for token in range(len(encoding))] == encoding.offsets
    for span in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        assert looked_up.tokens(span) == searched.tokens(span)


def test_a_token_behind_a_space_of_the_tokenizers_own_may_begin_in_front_of_it() -> None:
    tokenizer = trimming()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.normalizer = normalizers.NFKD()
    assert not keeps_order(tokenizer)
    encoding = tokenizer.encode("A<|im_end|>你", add_special_tokens=False)
    begins = [begin for begin, _ in encoding.offsets]
    assert begins != sorted(begins)
    first, end = Listed(encoding.offsets).tokens((11, 12))
    assert (first, end) == (begins.index(11), len(encoding))


@pytest.mark.parametrize(
    "foreign",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Whitespace(),
    ],
)
def test_of_other_tokenizers_nothing_is_assumed(foreign: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = backend()
    tokenizer.pre_tokenizer = foreign
    assert not keeps_order(tokenizer)


def test_of_texts_that_are_rewritten_nothing_is_assumed() -> None:
    tokenizer = backend()
    tokenizer.normalizer = normalizers.NFKC()
    assert not keeps_order(tokenizer)
