"""What is trained on: the assistant's words with the end of turn, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import CHATML, FORGETFUL, GENERATION, LLAMA3, make_tokenizer

from finetune_trainer.prepare.encode import Encoded, Encoder, Written
from finetune_trainer.prepare.template import ChatRenderer, TemplateError

TWO_TURNS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is a gang?"},
    {"role": "assistant", "content": "A set of pods."},
    {"role": "user", "content": "And 你好 🙂?"},
    {"role": "assistant", "content": "naïve Straße 🙂"},
]
NO_END = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
NO_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)
GENERATION_WITHOUT_END = GENERATION.replace(
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
    "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
)


CONDITIONAL = CHATML.replace(
    "{% if add_generation_prompt %}", "{% if add_generation_prompt and 1 %}"
)
LOOKS_AHEAD = CHATML.replace("{% endfor %}", "{% if loop.last %}{% endif %}{% endfor %}")
SECOND = CHATML.replace("{% endfor %}", "{% if messages[1] %}{% endif %}{% endfor %}")
EMPTY_PROMPT = NO_PROMPT + "{% if add_generation_prompt %}{{ '' }}{% endif %}"


def encode(tokenizer, messages=TWO_TURNS) -> Encoded:
    rendered = ChatRenderer(tokenizer).render(messages)
    end_of_turn = [tokenizer.convert_tokens_to_ids("<|eot|>")]
    return Encoder(tokenizer, end_of_turn).chat(rendered, rendered.spans)


def targets(tokenizer, encoded: Encoded) -> list[str]:
    """The texts of the runs of targets."""
    edges = np.flatnonzero(np.diff(encoded.supervised, prepend=0, append=0))
    return [
        tokenizer.decode(encoded.input_ids[a:b])
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


@pytest.mark.parametrize(
    ("template", "eos", "end"),
    [
        (CHATML, "<|im_end|>", "<|im_end|>"),
        (GENERATION, "<|im_end|>", "<|im_end|>"),
        (GENERATION_WITHOUT_END, "<|im_end|>", "<|im_end|>"),
        (NO_PROMPT, "<|im_end|>", "<|im_end|>"),
        (LLAMA3, "</s>", "<|eot|>"),
    ],
    ids=["chatml", "generation", "generation-without-end", "no-prompt", "llama3"],
)
def test_trap_09_and_13_targets_are_the_answers_with_their_end_of_turn(
    template: str, eos: str, end: str
) -> None:
    tokenizer = make_tokenizer(template, bos="<s>" if template == LLAMA3 else None, eos=eos)
    encoded = encode(tokenizer)
    assert targets(tokenizer, encoded) == [f"A set of pods.{end}", f"naïve Straße 🙂{end}"]


def test_trap_13_a_control_token_within_an_answer_does_not_hide_its_end() -> None:
    """A template that marks calls of tools; its block leaves the end of turn out."""
    called = GENERATION_WITHOUT_END.replace(
        "{% generation %}{{ message['content'] }}",
        "{% generation %}{{ 'Call: <|im_start|>' + message['content'] }}",
    )
    assert called != GENERATION_WITHOUT_END
    tokenizer = make_tokenizer(called, eos="<|im_end|>")
    assert targets(tokenizer, encode(tokenizer)) == [
        "Call: <|im_start|>A set of pods.<|im_end|>",
        "Call: <|im_start|>naïve Straße 🙂<|im_end|>",
    ]


def test_trap_09_both_ways_of_finding_the_answers_agree() -> None:
    prefix, block = encode(make_tokenizer(CHATML)), encode(make_tokenizer(GENERATION))
    assert prefix.input_ids.tolist() == block.input_ids.tolist()
    assert prefix.supervised.tolist() == block.supervised.tolist()


def test_trap_13_a_template_without_end_of_turn_gets_eos_as_the_last_target() -> None:
    tokenizer = make_tokenizer(NO_END)
    encoded = encode(tokenizer, TWO_TURNS[1:3])
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert encoded.supervised[-1] == 1


@pytest.mark.parametrize(
    "template", [CHATML, LLAMA3, NO_END, NO_PROMPT, CONDITIONAL, EMPTY_PROMPT, LOOKS_AHEAD, SECOND]
)
def test_trap_09_the_quick_rendering_of_words_is_that_of_the_library(template: str) -> None:
    tokenizer = make_tokenizer(template, bos="<s>")
    quick, slow = ChatRenderer(tokenizer), ChatRenderer(tokenizer)
    slow._globals, slow._prompt_adds_text, slow._edged = None, False, None
    assert quick._globals is not None
    assert (quick._edged is not None) is (template in (CHATML, LLAMA3, NO_END))
    assert quick._prompt_adds_text is (template in (CHATML, LLAMA3, NO_END, LOOKS_AHEAD, SECOND))
    assert quick.render(TWO_TURNS) == slow.render(TWO_TURNS)
    typed = [*TWO_TURNS[:2], {"role": "assistant", "content": "an \U000f0002 edge <|im_end|>"}]
    assert quick.render(typed) == slow.render(typed)
    assert quick.prompt(TWO_TURNS[:2]) == slow.prompt(TWO_TURNS[:2])


def test_samples_together_are_tokenised_as_each_by_itself() -> None:
    tokenizer = make_tokenizer(CHATML)
    renderer, encoder = ChatRenderer(tokenizer), Encoder(tokenizer)
    typed = [*TWO_TURNS[:1], {"role": "assistant", "content": "see <|im_end|> here"}]
    rendered = [renderer.render(messages) for messages in (TWO_TURNS, typed, TWO_TURNS[:3])]
    written = [
        *(Written(each, each.spans) for each in rendered),
        Written(rendered[0]),
        Written(None, prompt="What <|im_end|>?\n\n", text="That."),
        Written(None, text="That."),
        Written(None, text=""),
    ]
    together = list(encoder.samples(written))
    assert len(together) == len(written)
    for sample, encoded in zip(written, together, strict=True):
        alone = encoder.sample(sample)
        assert encoded.input_ids.tolist() == alone.input_ids.tolist()
        assert encoded.supervised.tolist() == alone.supervised.tolist()


def test_trap_09_a_template_that_rewrites_history_is_refused_with_the_turn() -> None:
    with pytest.raises(TemplateError, match=r"messages\[2\]: the chat template rewrites"):
        encode(make_tokenizer(FORGETFUL))


def test_a_template_that_refuses_a_conversation_says_why() -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TemplateError, match="roles must alternate"):
        encode(make_tokenizer(strict))


@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_trap_14_there_is_exactly_one_bos(template: str) -> None:
    tokenizer = make_tokenizer(template, bos="<s>")
    encoded = encode(tokenizer)
    bos = tokenizer.bos_token_id
    assert (encoded.input_ids == bos).sum() == 1
    assert encoded.input_ids[0] == bos
    assert encoded.supervised[0] == 0


def test_trap_14_no_bos_is_added_for_a_tokenizer_without_one() -> None:
    tokenizer = make_tokenizer(CHATML)
    assert tokenizer.convert_ids_to_tokens(int(encode(tokenizer).input_ids[0])) == "<|im_start|>"


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_trap_s17_control_tokens_that_people_type_stay_text(role: str) -> None:
    tokenizer = make_tokenizer(CHATML)
    typed = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    clean = encode(tokenizer, typed)
    for message in typed:
        if message["role"] == role:
            message["content"] = "see <|im_end|> here"
    encoded = encode(tokenizer, typed)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (encoded.input_ids == end).sum() == (clean.input_ids == end).sum() == 2
    assert "see <|im_end|> here" in tokenizer.decode(encoded.input_ids)
    answer = "see <|im_end|> here" if role == "assistant" else "b"
    assert targets(tokenizer, encoded) == [f"{answer}<|im_end|>"]


def test_a_plain_continuation_ends_with_eos_and_leaves_the_prompt_out() -> None:
    tokenizer = make_tokenizer(None)
    encoded = Encoder(tokenizer).plain("What is a gang?\n\n", "A set of pods.")
    assert targets(tokenizer, encoded) == ["A set of pods.<|im_end|>"]
    assert tokenizer.decode(encoded.input_ids).startswith("What is a gang?")


def test_loss_on_everything_leaves_out_only_the_first_token() -> None:
    tokenizer = make_tokenizer(CHATML)
    rendered = ChatRenderer(tokenizer).render(TWO_TURNS)
    encoded = Encoder(tokenizer).everything(rendered.text)
    assert encoded.supervised.tolist() == [0] + [1] * (len(encoded.input_ids) - 1)


def test_what_is_known_of_texts_is_forgotten_with_their_samples() -> None:
    encoder = Encoder(make_tokenizer())
    samples = encoder.samples([Written(None, prompt="a ", text="gang")])
    next(samples)
    assert encoder._known
    del samples
    assert not encoder._known
