"""What is done to every text, and which text is none."""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile(r"\r\n?")
# C0 and C1 controls without tab and line feed, and the byte order mark inside a text.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


def normalize(text: str) -> str:
    """Unicode NFC, line ends as ``\\n``, without control characters and byte order marks."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))


def is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which stand for broken emoji or for foreign bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
