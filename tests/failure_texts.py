"""Texts of failures, and of what is none: files in tests/failures, each with its source on top."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("failures")


@dataclass(frozen=True)
class Text:
    """What some program printed."""

    name: str
    source: str
    lines: list[str]

    @property
    def signature(self) -> str:
        """What it must be recognised as; several texts of one are numbered."""
        return self.name.partition(".")[0]


def texts(folder: str) -> list[Text]:
    """The files of a folder: ``source: …``, an empty line, the text."""
    found = []
    for path in sorted((FOLDER / folder).glob("*.txt")):
        source, empty, *lines = path.read_text(encoding="utf-8").splitlines()
        if not source.startswith("source: ") or empty:
            raise ValueError(f"{path.name} does not begin with its source and an empty line")
        found.append(Text(path.stem, source.removeprefix("source: "), lines))
    return found
