"""From one row's values to a conversation or a text; what does not fit is a ``RowFault``.

Known spellings: OpenAI messages (also with content in parts and with tool calls), ShareGPT's
from/value, Alpaca's instruction/input/output, and messages as JSON text in a CSV or Parquet cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune_trainer.config import DataSource
from finetune_trainer.prepare.cleaning.rules import BROKEN_ROWS, ENCODING
from finetune_trainer.prepare.cleaning.text import is_unicode
from finetune_trainer.prepare.formats import (
    NEEDED,
    SourceReport,
    columns_of,
    looks_like,
)

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_ANSWERS = {"Instruction": "response", "Completion": "text"}
"""Where the answer stands, by format."""
_MAX_DEPTH = 64
"""Of tools and tool calls; schemas of parameters have some ten levels."""
_CARRIED = ("tool_calls", "tool_call_id", "name")
"""What a message may hold besides role and content; templates use it."""


class RowFault(Exception):  # noqa: N818 - it is not an error of the program
    """A row that falls under a rule, and why."""

    def __init__(self, reason: str, rule: str = BROKEN_ROWS) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule


def conversation(
    source: DataSource, report: SourceReport, values: Mapping[str, Any]
) -> tuple[list[Message], str, str]:
    """A row as (messages, tools, text): messages with tools as JSON or "", or text alone.

    Messages are dicts of role, content and ``extra``, which is JSON or "". Raises ``RowFault``.
    """
    columns = columns_of(source, values)
    for role in NEEDED[report.format]:
        if role not in columns:
            raise RowFault(
                f"no column {report.columns[role]!r} as in the source's other rows; "
                f"{looks_like(source, values)}"
            )
    if report.format == "Completion":
        return [], "", _answer(values, columns["text"])
    if report.format == "Instruction":
        return _instruction(values, columns), "", ""
    messages = _messages(values[columns["messages"]], columns["messages"])
    tools = _json(values.get(columns["tools"]), columns["tools"]) if "tools" in columns else None
    return messages, _dump(_tools(columns["tools"], tools)) if tools else "", ""


def blank_answer(
    source: DataSource,
    report: SourceReport,
    values: Mapping[str, Any],
    messages: list[Message],
    text: str,
) -> str | None:
    """Why the answer counts as empty, or None. ``messages`` and ``text`` are those of the row."""
    reason = _blank(messages, text)
    if reason is not None and (role := _ANSWERS.get(report.format)):
        column = columns_of(source, values)[role]
        if values[column] is None:
            return f"{column} is missing"
    return reason


def _blank(messages: list[Message], text: str) -> str | None:
    if not messages:
        return None if text.strip() else "the text is empty"
    for turn, message in enumerate(messages):
        answers = message["role"] == "assistant"
        if answers and not message["content"].strip() and "tool_calls" not in message["extra"]:
            return f"messages[{turn}].content is empty"
    return None


def _instruction(values: Mapping[str, Any], columns: Mapping[str, str]) -> list[Message]:
    prompt = _text(values, columns["prompt"])
    if not prompt.strip():
        raise RowFault(f"{columns['prompt']} is empty")
    if extra := _optional(values, columns.get("input")):
        prompt = f"{prompt}\n\n{extra}"
    system = _optional(values, columns.get("system"))
    head = [_turn("system", system)] if system else []
    response = _answer(values, columns["response"])
    return [*head, _turn("user", prompt), _turn("assistant", response)]


def _messages(value: object, column: str) -> list[Message]:
    value = _json(value, column)
    if not isinstance(value, list) or not value:
        raise RowFault(f"{column} must be a list of messages with role and content")
    messages = [_message(f"{column}[{turn}]", message) for turn, message in enumerate(value)]
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise RowFault(f"{column}[{roles.index('system', 1)}]: a system message must come first")
    if next(role for role in [*roles, "user"] if role != "system") not in ("user", "tool"):
        raise RowFault(f"{column}: a conversation must begin with the user, not the assistant")
    return messages


def _message(place: str, message: object) -> Message:
    if not isinstance(message, dict):
        raise RowFault(f"{place} must have role and content")
    if "role" not in message and {"from", "value"} <= message.keys():
        known = str(message["from"])
        message = {"role": SHAREGPT_ROLES.get(known, known), "content": message["value"]}
    carried = {name: message[name] for name in _CARRIED if message.get(name)}
    if "tool_calls" in carried:
        carried["tool_calls"] = _tool_calls(f"{place}.tool_calls", carried["tool_calls"])
    if "role" not in message or ("content" not in message and "tool_calls" not in carried):
        raise RowFault(f"{place} must have role and content")
    role, content = message["role"], _parts(place, message.get("content"))
    if role not in ROLES:
        raise RowFault(f"{place}.role is {role!r}; use {', '.join(ROLES)}"[:200])
    if content is None and (role == "assistant" or "tool_calls" in carried):
        content = ""
    if not isinstance(content, str):
        raise RowFault(f"{place}.content must be text, not {type(content).__name__}")
    if not content.strip() and role not in ("assistant", "tool"):
        raise RowFault(f"{place}.content is empty")
    return _turn(role, _unicode(f"{place}.content", content), _dump(carried) if carried else "")


def _turn(role: str, content: str, extra: str = "") -> Message:
    return {"role": role, "content": content, "extra": extra}


def _parts(place: str, content: object) -> object:
    """Content in parts, as multi-modal chats have it, becomes one text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise RowFault(f"{place}.content has a part that is no text: {kind}"[:200])
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_calls(place: str, calls: object) -> list[Any]:
    """A list of objects with the name of a function, as templates read it."""
    calls = _json(calls, place)
    if not isinstance(calls, list):
        raise RowFault(f"{place} must be a list of calls")
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowFault(f"{place}[{number}] must be an object with function and its name")
    return calls


def _tools(column: str, tools: object) -> list[Any]:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowFault(f"{column} must be a list of tools, each a JSON object")
    return tools


def _answer(values: Mapping[str, Any], column: str) -> str:
    """A missing one is empty: what follows from that is for the rule to say."""
    return "" if values[column] is None else _text(values, column)


def _text(values: Mapping[str, Any], column: str) -> str:
    value = values[column]
    if value is None:
        raise RowFault(f"{column} is missing")
    if not isinstance(value, str):
        raise RowFault(f"{column} is not text but {type(value).__name__}")
    return _unicode(column, value)


def _optional(values: Mapping[str, Any], column: str | None) -> str:
    text = _text(values, column) if column and values.get(column) else ""
    return text if text.strip() else ""


def _unicode(place: str, text: str) -> str:
    if not is_unicode(text):
        raise RowFault(f"{place} holds half of a surrogate pair", ENCODING)
    return text


def _json(value: object, column: str) -> object:
    """The value, or what its JSON text says: CSV and many Parquet files hold lists as text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise RowFault(f"{column} is no valid JSON ({error})"[:200]) from None


def _dump(value: object) -> str:
    if _is_deeper(value, _MAX_DEPTH):
        raise RowFault(f"tools and tool calls may have {_MAX_DEPTH} levels")
    try:
        _unicode("what belongs to tools", json.dumps(value, ensure_ascii=False))
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise RowFault(f"tools and tool calls must be JSON ({error})"[:200]) from None


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in parts)
