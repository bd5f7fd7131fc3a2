"""Secrets do not leave: tokens, passwords and keys in a text give way to a mark.

The trainer redacts what it prints and reports; the operator redacts again what it is told. Both
hold this file. It looks for forms and for names, so it is a second lock on a door that should be
shut: a secret of unknown form under an innocent name passes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MARK = "[redacted]"
BLOCK_BEGINS = "-----begin "
BLOCK_ENDS = "-----end "
"""Of a PEM block, in small letters."""


class Secret(NamedTuple):
    """How a kind of secret is found."""

    signs: tuple[str, ...]
    """Words, one of which is always there: looking for them is fast, and most lines have none."""
    pattern: str
    """The secret; what its first group holds, if it has one, tells the kind and is kept."""


_IS = r"[\"']?(?:\s?=\s?|:\s?)[\"']?"
"""Between a name and its value."""
_CHARACTER = r"""[^\s"',;&]"""

SECRETS = (
    Secret(("hf_", "api_org_"), r"\b(?:hf|api_org)_[a-z0-9]{8,256}"),
    Secret(("akia", "asia", "aroa", "aida"), r"(?-i:\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,128})"),
    Secret(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[a-z0-9]{16,256}"),
    Secret(
        ("github_pat_", "glpat-", "xox", "sk-", "nvapi-", "aiza"),
        r"\b(?:github_pat_|glpat-|xox[abprs]-|sk-|nvapi-|AIza)[a-z0-9_-]{20,256}",
    ),
    Secret(("eyj",), r"\beyJ[a-z0-9_-]{8,4096}\.[a-z0-9_-]{8,4096}(?:\.[a-z0-9_-]{0,4096})?"),
    # A PEM block on one line; Redactor follows those that span several.
    Secret(
        (BLOCK_BEGINS,),
        r"-----BEGIN [A-Z0-9 ]{1,40}-----.*?(?:-----END [A-Z0-9 ]{1,40}-----|$)",
    ),
    Secret(
        ("authorization",),
        rf"(\bauthorization{_IS}(?:(?:bearer|basic|token)\s)?)[^\s\"',;]{{1,4096}}",
    ),
    Secret(("bearer ",), r"(\bbearer\s)[a-z0-9._~+/=-]{16,4096}"),
    Secret(
        ("://",),
        r"(\b(?:https?|ftps?|ssh|git|s3|gs|wss?|redis|amqps?|mysql|postgres|postgresql|mongodb)://)"
        r"[^\s/@\"']{1,512}(?=@)",
    ),
    Secret(
        ("x-amz-", "accesskeyid=", "signature=", "sig=", "key=", "token="),
        r"([?&](?:x-amz-[a-z-]{1,40}|awsaccesskeyid|signature|sig|key|token|access_token)=)"
        r"[^&\s\"']{1,4096}",
    ),
    Secret(
        ("password", "passwd", "passphrase"),
        rf"((?:password|passwd|passphrase){_IS}){_CHARACTER}{{1,512}}",
    ),
    # Names that also stand for harmless things: the value must look like a secret.
    Secret(
        tuple(
            name + mark
            for name in ("token", "secret", "key", "credential", "credentials", "auth")
            for mark in ("=", ":", " =", '"', "'")
        ),
        r"((?:token|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|credentials?"
        rf"|[\"']auth){_IS})"
        rf"(?!<)(?:(?={_CHARACTER}{{0,64}}\d){_CHARACTER}{{8,512}}|{_CHARACTER}{{16,512}})",
    ),
)
_compiled = [(secret.signs, re.compile(secret.pattern, re.IGNORECASE)) for secret in SECRETS]

_BLOCK_BODY = re.compile(r"\s*([A-Za-z0-9+/=\\]*|(Proc-Type|DEK-Info): .{0,80})\s*")


class Redactor:
    """Redacts the lines of one stream, in their order: a PEM block spans several."""

    def __init__(self) -> None:
        self._in_block = False

    def line(self, text: str) -> str:
        """The line, without its secrets."""
        lowered = text.lower()
        if self._in_block:
            if BLOCK_ENDS in lowered:
                self._in_block = False
                return MARK
            if _BLOCK_BODY.fullmatch(text):
                return MARK
            self._in_block = False  # torn: the block never ended
        if BLOCK_BEGINS in lowered:
            self._in_block = lowered.rfind(BLOCK_BEGINS) > lowered.rfind(BLOCK_ENDS)
        while (cleared := _once(text, lowered)) != text:
            text, lowered = cleared, cleared.lower()  # a mark may end the word before a secret
        return text


def _once(text: str, lowered: str) -> str:
    for signs, pattern in _compiled:
        for sign in signs:  # a loop, not any(): every line of every log comes by here
            if sign in lowered:
                text = pattern.sub(_replacement, text)
                break
    return text


def redact(text: str) -> str:
    """The text without its secrets; it keeps its lines."""
    redactor = Redactor()
    return "\n".join(redactor.line(line) for line in text.split("\n"))


def _replacement(found: re.Match[str]) -> str:
    kept = found[1] if found.re.groups else ""
    return kept + MARK
