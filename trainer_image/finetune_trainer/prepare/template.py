"""Which characters of a conversation the model shall learn: rendering with a chat template.

Two ways to find the assistant's part, and no third: the template's own ``{% generation %}`` block,
or the difference between the text up to a turn and the text with it. A template that rewrites
earlier turns fits neither and is refused, because a guessed mask trains the wrong tokens.

Control tokens typed by people (``<|im_end|>`` in a user's message) are marked before rendering, so
that tokenising can keep them text.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import mark_control_tokens, render_jinja_template

from finetune_trainer.model import REFUSALS
from finetune_trainer.prepare.template_shape import EDGE, PROMPT, prompt_adds_text, with_edges

Message = dict[str, Any]
"""Role and content, and what a template may know besides: tool_calls, tool_call_id, name."""
Span = tuple[int, int]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_WORDS = {"role", "content"}


class TemplateError(Exception):
    """The chat template cannot render this conversation, or hides where the answers are."""


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation; ``spans`` are the character ranges of the assistant's turns."""

    text: str
    spans: tuple[Span, ...]


class ChatRenderer:
    """Renders conversations with the tokenizer's chat template and finds the assistant's turns.

    Raises ``TemplateError`` with the index of the turn that cannot be placed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        template = tokenizer.chat_template
        if not isinstance(template, str):
            # A tokenizer may carry several templates by name.
            template = (template or {}).get("default")
        if not template:
            raise TemplateError("the model has no chat template")
        self._template = template
        self._special: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self._compiled = _compiled(template)
        self._globals: dict[str, Any] | None = None
        self._prompt_adds_text = False
        self._edged: Any = None
        """Of templates that write each message by itself: the same with edges behind them."""
        if self._compiled is not None:
            if all(type(value) is str for value in self._special.values()):
                given = {"tools": None, "documents": None, **self._special}
                self._globals = {**self._compiled.globals, **given}
            environment = self._compiled.environment
            tree = environment.parse(template)
            self._prompt_adds_text = prompt_adds_text(tree)
            edged = with_edges(tree) if self._globals is not None else None
            if edged is not None:
                self._edged = environment.from_string(edged)
                self._head = len(self._text_of_words([], prompt=False))
                self._asked = self._text_of_words([], prompt=True)[self._head :]
        self.has_generation_block = _GENERATION.search(template) is not None
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        self._typed = _alternatives([*special, *_tokens_in_template(tokenizer, template)])
        self._typed_by_assistant = _alternatives(special)

    def render(self, messages: list[Message], tools: Any = None) -> Rendered:
        """The whole conversation with the character spans of all assistant turns."""
        messages = [self._mark(message) for message in messages]
        options = {"tools": _marked(tools, self._typed)} if tools else {}
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if self.has_generation_block:
            rendered = self._by_generation_block(messages, options)
        else:
            rendered = self._by_prefix(messages, turns, options)
        if len(rendered.spans) == len(turns):
            for turn, (start, end) in zip(turns, rendered.spans, strict=True):
                _check_answer(turn, messages[turn], rendered.text[start:end])
        return rendered

    def prompt(self, messages: list[Message], tools: Any = None) -> str:
        """The text that asks the model for the next assistant turn."""
        options = {"tools": _marked(tools, self._typed)} if tools else {}
        return self._text([self._mark(message) for message in messages], prompt=True, **options)

    def _by_generation_block(self, messages: list[Message], options: dict[str, Any]) -> Rendered:
        texts, spans = self._render(messages, return_assistant_tokens_mask=True, **options)
        return Rendered(texts[0], tuple((start, end) for start, end in spans[0] if start < end))

    def _by_prefix(
        self, messages: list[Message], turns: list[int], options: dict[str, Any]
    ) -> Rendered:
        quick = self._edged is not None and not options and all(map(_is_words, messages))
        if quick and (rendered := self._by_edges(messages, turns)) is not None:
            return rendered
        whole = Rendered(self._text(messages, **options), ())
        for turn in turns:
            before = self._text(messages[:turn], prompt=True, **options)
            last = turn + 1 == len(messages)
            upto = whole.text if last else self._text(messages[: turn + 1], **options)
            start = len(before)
            if not upto.startswith(before) or not whole.text.startswith(upto):
                raise TemplateError(
                    f"messages[{turn}]: the chat template rewrites earlier turns, so the answer's "
                    "place is unknown"
                )
            if not self._prompt_adds_text and before == self._text(messages[:turn], **options):
                # Without a generation prompt the turn's header belongs to nobody's answer.
                at = upto.find(messages[turn]["content"].strip(), start)
                start = at if at >= 0 else start
            whole = replace(whole, spans=(*whole.spans, (start, len(upto))))
        return whole

    def _by_edges(self, messages: list[Message], turns: list[int]) -> Rendered | None:
        """What ``_by_prefix`` finds, from one text instead of two for each turn; None where the
        template, or the text, does not allow it."""
        *pieces, rest = self._text_of_words(messages, False, self._edged).split(EDGE)
        if len(pieces) != len(messages) or rest:  # somebody typed an edge
            return None
        text, ends = "".join(pieces), list(itertools.accumulate(map(len, pieces)))
        spans = []
        for turn in turns:
            start = ends[turn - 1] if turn else self._head
            if not text.startswith(self._asked, start, ends[turn]):
                return None
            spans.append((start + len(self._asked), ends[turn]))
        return Rendered(text, tuple(spans))

    def _text(self, messages: list[Message], prompt: bool = False, **options: Any) -> str:
        if self._globals is not None and not options and all(map(_is_words, messages)):
            return self._text_of_words(messages, prompt)
        return str(self._render(messages, add_generation_prompt=prompt, **options)[0][0])

    def _text_of_words(self, messages: list[Message], prompt: bool, template: Any = None) -> str:
        """What ``_render`` gives for messages of nothing but words, without its checks and copies,
        which take most of its time."""
        told = {**(self._globals or {}), "messages": messages, PROMPT: prompt}
        template = template or self._compiled
        try:
            return "".join(template.root_render_func(template.new_context(told, shared=True)))
        except REFUSALS as error:
            raise TemplateError(f"the chat template refuses it: {error}") from error

    def _render(self, messages: list[Message], **options: Any) -> Any:
        try:
            return render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                **options,
                **self._special,
            )
        except REFUSALS as error:
            raise TemplateError(f"the chat template refuses it: {error}") from error

    def _mark(self, message: Message) -> Message:
        typed = self._typed_by_assistant if message["role"] == "assistant" else self._typed
        marked = {name: _marked(value, typed) for name, value in message.items() if name != "role"}
        return {"role": message["role"], **marked}


def _marked(value: Any, typed: re.Pattern[str]) -> Any:
    """With every control token marked, also in the keys of tool calls: people type those, too."""
    if isinstance(value, dict):
        return {mark_control_tokens(k, typed): _marked(v, typed) for k, v in value.items()}
    if isinstance(value, list):
        return [_marked(part, typed) for part in value]
    return mark_control_tokens(value, typed)


def _is_words(message: Message) -> bool:
    return message.keys() == _WORDS and all(type(value) is str for value in message.values())


def _compiled(template: str) -> Any:
    """The compiled template; None where it is none: that is told when it shall render."""
    try:
        return chat_template_utils._compile_jinja_template(template)
    except REFUSALS:
        return None


def _check_answer(turn: int, message: Message, answer: str) -> None:
    if message["content"].strip() not in answer:
        raise TemplateError(f"messages[{turn}]: the chat template changes or moves the answer")
    for call in message.get("tool_calls", ()):
        if call.get("function", call).get("name", "") not in answer:
            raise TemplateError(f"messages[{turn}]: the chat template leaves out the tool call")


def _tokens_in_template(tokenizer: Tokenizer, template: str) -> list[str]:
    """Added tokens that are not special, yet steer the conversation because the template has them.

    White space is left out: some tokenizers have added tokens for it.
    """
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    return [token for token in added if token in template and not token.isspace()]


def _alternatives(tokens: list[str]) -> re.Pattern[str]:
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
