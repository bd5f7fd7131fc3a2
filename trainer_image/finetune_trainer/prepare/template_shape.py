"""What the syntax of a chat template proves of its texts, so that fewer have to be rendered.

Where nothing is proved, nothing is assumed: the renderer then looks at the texts themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeGuard

from jinja2 import nodes

PROMPT = "add_generation_prompt"
MESSAGES = "messages"
EDGE = "\U000f0002"
"""Behind each message, in the text of ``with_edges``: a private character."""

_OF_THE_LOOP = ("first", "index", "index0")
"""What a turn may ask of the loop: it is the same whatever turns follow."""
_PURE = (
    nodes.Const,
    nodes.TemplateData,
    nodes.Output,
    nodes.If,
    nodes.Name,
    nodes.Getitem,
    nodes.Getattr,
    nodes.Add,
    nodes.Concat,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
)
"""Syntax whose value is made of its parts alone."""
_PURE_NAMES = ("trim", "defined", "undefined", "none")
"""Filters and tests of that kind."""


def prompt_adds_text(tree: nodes.Template) -> bool:
    """Whether asking for an answer certainly makes the text longer: nothing depends on it but one
    block at the top level, and that writes a constant whatever else it writes."""
    asked = [name for name in tree.find_all(nodes.Name) if name.name == PROMPT]
    blocks = [node for node in tree.body if _is_prompt(node)]
    if len(asked) != 1 or len(blocks) != 1:
        return False
    statements = blocks[0].find_all(nodes.Stmt)
    if not all(isinstance(statement, nodes.Output | nodes.If) for statement in statements):
        return False
    return any(_is_text(part) for part in _written(blocks[0].body))


def with_edges(tree: nodes.Template) -> nodes.Template | None:
    """The template with an ``EDGE`` behind each message; None unless each message is certainly
    written by itself: whatever follows it, and whether an answer is asked for.

    Then the text up to any turn is the beginning of the whole text, up to its edge.
    """
    loops = [node for node in tree.body if isinstance(node, nodes.For)]
    if len(loops) != 1 or not prompt_adds_text(tree):
        return None
    (loop,) = loops
    *before, last, prompt = tree.body
    if not _is_prompt(prompt) or not all(map(_is_constant, (*before, *prompt.body))):
        return None
    if last is not loop or not _is_plain(loop) or not all(map(_is_free_of_others, loop.body)):
        return None
    loop.body.append(nodes.Output([nodes.TemplateData(EDGE)]))
    return tree


def _is_prompt(node: nodes.Node) -> TypeGuard[nodes.If]:
    return (
        isinstance(node, nodes.If)
        and isinstance(node.test, nodes.Name)
        and node.test.name == PROMPT
        and not node.elif_
        and not node.else_
    )


def _is_constant(node: nodes.Node) -> bool:
    parts = node.nodes if isinstance(node, nodes.Output) else [node]
    return all(isinstance(part, nodes.TemplateData | nodes.Const) for part in parts)


def _is_plain(loop: nodes.For) -> bool:
    """``for <name> in messages``, and nothing more."""
    return (
        isinstance(loop.target, nodes.Name)
        and loop.target.name not in (MESSAGES, "loop")
        and isinstance(loop.iter, nodes.Name)
        and loop.iter.name == MESSAGES
        and not loop.else_
        and loop.test is None
        and not loop.recursive
    )


def _written(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    return (part for node in body if isinstance(node, nodes.Output) for part in node.nodes)


def _is_text(part: nodes.Node) -> bool:
    if isinstance(part, nodes.TemplateData):
        return part.data != ""
    return isinstance(part, nodes.Const) and isinstance(part.value, str) and part.value != ""


def _is_free_of_others(node: nodes.Node) -> bool:
    """Whether a node of the loop depends on its message, the first one and constants alone."""
    if isinstance(node, nodes.Getitem) and _is_name(node.node, MESSAGES):
        return isinstance(node.arg, nodes.Const) and node.arg.value == 0
    if isinstance(node, nodes.Getattr) and _is_name(node.node, "loop"):
        return node.attr in _OF_THE_LOOP
    if isinstance(node, nodes.Name) and node.name in (MESSAGES, "loop", PROMPT):
        return False
    pure = isinstance(node, _PURE) or (
        isinstance(node, nodes.Filter | nodes.Test) and node.name in _PURE_NAMES
    )
    children = node.iter_child_nodes()
    return pure and all(map(_is_free_of_others, children))


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
