"""Under which licence a model or data come, as the front matter of their README.md says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

log = logging.getLogger(__name__)

_KEYS = ("license", "license_name", "license_link")
_MAX_LENGTH = 200


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of ``README.md`` in ``folder``; empty where there is none to be read."""
    try:
        return dict(metadata_load(folder / "README.md") or {})
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.info("no front matter in README.md: %s", type(error).__name__)
        return {}


def licence(card: Mapping[str, Any]) -> dict[str, str] | None:
    """``license``, with its name and link where it is ``other``; None where it is not known."""
    found = {key: str(value) for key in _KEYS if isinstance(value := card.get(key), str)}
    short = all(len(value) <= _MAX_LENGTH for value in found.values())
    return found if short and found.get("license") else None


def licence_name(card: Mapping[str, Any]) -> str | None:
    """In one line, as people say it; data may come under several. None where it is not known."""
    known = card.get("license_name") or card.get("license")
    names = known if isinstance(known, list) else [known]
    told = ", ".join(" ".join(name.split()) for name in names if isinstance(name, str))
    return told[:_MAX_LENGTH] or None
