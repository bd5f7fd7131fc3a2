"""Bounds that data must keep: bad data ends the job here, before a GPU is held."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_trainer.config import Expect
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.cleaning.rejects import Account
from finetune_trainer.prepare.cleaning.rules import BROKEN_ROWS, ENCODING, TEMPLATE_REFUSALS

_FIELD = "spec.data.expect"
_BROKEN = (TEMPLATE_REFUSALS, BROKEN_ROWS, ENCODING)
BETTER_TEMPLATE = "give a template that fits in spec.model.chatTemplate"


def check_broken(account: Account, limit: float) -> None:
    """Not more than this share of a source's rows is broken. Raises ``BadData``."""
    broken = sum(account.dropped[rule] for rule in _BROKEN)
    if broken > limit * account.read:
        examples = [example for rule in _BROKEN for example in account.examples.get(rule, [])]
        template = f", or {BETTER_TEMPLATE}" if account.dropped[TEMPLATE_REFUSALS] else ""
        raise BadData(
            f"{account.field}: {'; '.join(examples[:3])} ({broken} of {account.read} rows are "
            f"broken, {_FIELD}.maxBrokenFraction is {limit:g})",
            f"correct these rows{template}; if they may be lost, raise maxBrokenFraction",
        )


def check_rows(expect: Expect, accounts: Iterable[Account]) -> None:
    """Enough rows are left, and not too many were dropped. Raises ``BadData``."""
    accounts = list(accounts)
    read, kept = sum(a.read for a in accounts), sum(a.kept for a in accounts)
    dropped = sum(sum(a.dropped.values()) for a in accounts)
    limit = expect.max_dropped_fraction
    if limit is not None and dropped > limit * read:
        raise BadData(
            f"{_FIELD}.maxDroppedFraction: {dropped} of {read} training rows were dropped "
            f"({told(accounts)}), the limit is {limit:g}",
            "correct the rows, or change the policies in spec.data.cleaning",
        )
    if kept < expect.min_rows:
        reasons = f" ({told(accounts)})" if dropped else ""
        raise BadData(
            f"{_FIELD}.minRows: {kept} rows are left to train on{reasons}, expected are at least "
            f"{expect.min_rows}",
            "add rows, or lower minRows",
        )


def check_truncated(expect: Expect, truncated: int, kept: int) -> None:
    """Not too many rows lose their end. Raises ``BadData``."""
    limit = expect.max_truncated_fraction
    if limit is not None and truncated > limit * kept:
        raise BadData(
            f"{_FIELD}.maxTruncatedFraction: {truncated} of {kept} rows are cut at "
            f"spec.data.sequenceLength, the limit is {limit:g}",
            "raise sequenceLength, or set overlong to Split or Drop",
        )


def check_leaked(expect: Expect, leaked: int, count: int, kind: str) -> None:
    """Evaluation says something about rows that were not trained on; ``leaked`` of ``count`` rows
    of a kind are equal to training rows. Raises ``BadData``."""
    if leaked > expect.max_leaked_fraction * count:
        raise BadData(
            f"{_FIELD}.maxLeakedFraction: {leaked} of {count} {kind} rows are training "
            f"rows, too, the limit is {expect.max_leaked_fraction:g}",
            "take other rows, or set spec.data.cleaning.evalLeakage to Drop",
        )


def told(accounts: Iterable[Account]) -> str:
    """Dropped rows by rule, for a message; with what the chat template says, if it refuses some."""
    accounts, counts = list(accounts), dict[str, int]()
    for account in accounts:
        for rule, count in account.dropped.items():
            counts[rule] = counts.get(rule, 0) + count
    words = ", ".join(f"{rule}: {count}" for rule, count in sorted(counts.items()))
    refused = [each for account in accounts for each in account.examples.get(TEMPLATE_REFUSALS, [])]
    return f"{words}; {refused[0]}" if refused else words
