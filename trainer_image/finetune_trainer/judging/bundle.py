"""A blind comparison: the answers of the untouched and the tuned model as A and B, for people.

The folder ``rating`` holds the items as JSON lines and as a page that works from a file, offline
and by keyboard. Which answer is whose stands nowhere in it; ``rating-key.json`` in the attempt's
folder tells, and the operator draws the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune_trainer.blinding import tuned_first
from finetune_trainer.config import RunConfig
from finetune_trainer.judging.table import ANSWERS, read_rows
from finetune_trainer.outcome import write_json

ITEMS = "bundle.jsonl"
PAGE = "rate.html"
KEY = "rating-key.json"
FOLDER = "rating"
_TEMPLATE = Path(__file__).with_name("rate.html.j2")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """What people are to rate."""

    items: tuple[dict[str, Any], ...]
    """id, prompt, reference, a and b."""
    tuned_first: frozenset[int]
    """Items whose answer A is the tuned model's."""
    same: int
    """Prompts that both models answer with the same words: nobody can tell these apart."""

    @property
    def text(self) -> str:
        """The items as JSON lines."""
        return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in self.items)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON lines: every rating names it."""
        return "sha256:" + hashlib.sha256(_bytes(self.text)).hexdigest()

    @property
    def report(self) -> dict[str, Any]:
        """For the last words of export."""
        return {"bundle": self.digest, "items": len(self.items), "same": self.same}


def read_bundle(config: RunConfig, attempt: Path) -> Bundle | None:
    """Of the answers that training left in the attempt's folder.

    None: the job wants none, or there is nothing to compare.
    """
    if config.evaluation.human is None:
        return None
    bundle = make_bundle(config, read_rows(attempt / ANSWERS) or [])
    if bundle is None:
        log.warning("people have nothing to compare: the two models answer alike, or not both did")
    return bundle


def make_bundle(config: RunConfig, rows: Sequence[dict[str, Any]]) -> Bundle | None:
    """``rows`` of the table of answers. None: the models never differ, or were not both asked."""
    both = [row for row in rows if "base" in row]
    unlike = [row for row in both if row["base"]["text"] != row["tuned"]["text"]]
    if not unlike:
        return None
    first = tuned_first(config.job.uid, config.training.seed, len(unlike))
    items = []
    for number, row in enumerate(unlike, start=1):
        pair = [row["base"]["text"], row["tuned"]["text"]]
        a, b = reversed(pair) if number in first else pair
        prompt, reference = row["prompt"], row["reference"]
        items.append({"id": number, "prompt": prompt, "reference": reference, "a": a, "b": b})
    return Bundle(tuple(items), first, len(both) - len(unlike))


def write_bundle(bundle: Bundle, config: RunConfig, folder: Path) -> None:
    """The items and the page into ``folder``. Raises ``OSError``."""
    human = config.evaluation.human
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        job=config.job.name,
        bundle=_embedded(
            {
                "digest": bundle.digest,
                "job": config.job.name,
                "namespace": config.job.namespace,
                "configMap": human.config_map if human else f"{config.job.name}-ratings",
                "items": bundle.items,
            }
        ),
    )
    (folder / ITEMS).write_bytes(_bytes(bundle.text))
    (folder / PAGE).write_bytes(_bytes(page))


def write_key(bundle: Bundle, path: Path) -> None:
    """Which answer is whose: the items whose answer A is the tuned model's. Raises ``OSError``."""
    write_json(path, {"bundle": bundle.digest, "tunedIsA": sorted(bundle.tuned_first)})


def _embedded(content: Any) -> Markup:
    """JSON that ends no script, whatever texts it holds."""
    text = json.dumps(content)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no character of markup is left


def _bytes(text: str) -> bytes:
    """UTF-8; half of a surrogate pair, which JSON may hold, as its escape."""
    return text.encode("utf-8", errors="backslashreplace")
