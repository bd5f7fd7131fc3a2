"""The account of all rows: how many of each source were read, dropped and reported, and which.

Every dropped row stands in a file with rule, file, line, reason and a bounded excerpt. Of the rows
that a rule only reports, the first thousand of each source do.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_trainer.config import Cleaning
from finetune_trainer.errors import BadData, StageError

MAX_EXCERPT = 200
MAX_REPORTED = 1000
_EXAMPLES = 3


@dataclasses.dataclass
class Account:
    """The rows of one source. ``read == kept + held_out + not_drawn + sum(dropped)``, always."""

    field: str
    """``spec.data.train[0]``"""
    read: int = 0
    kept: int = 0
    held_out: int = 0
    """Training rows that were put aside for evaluation."""
    not_drawn: int = 0
    """Rows that the source's weight leaves out."""
    drawn: int | None = None
    """Rows that an epoch draws, repeats counted; None: no weights are given, each row once."""
    changed: int = 0
    """Rows whose text was changed by ``normalize``."""
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    reported: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """The first few places under each rule, for messages."""

    def check(self) -> None:
        """No row was lost on the way. Raises ``StageError``, which would be our own fault."""
        ended = self.kept + self.held_out + self.not_drawn + sum(self.dropped.values())
        if ended != self.read:
            raise StageError(f"{self.field}: {self.read} rows were read, {ended} accounted for")

    def summary(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "field": self.field,
            "rows": self.read,
            "kept": self.kept,
            "heldOut": self.held_out,
            "changed": self.changed,
            "dropped": dict(sorted(self.dropped.items())),
            "reported": dict(sorted(self.reported.items())),
            **self._mixing(),
        }

    def _mixing(self) -> dict[str, Any]:
        if self.drawn is None:
            return {}
        epochs = round(self.drawn / (self.kept + self.not_drawn), 4)
        return {"drawn": self.drawn, "notDrawn": self.not_drawn, "epochs": epochs}


def totals(accounts: Iterable[Account]) -> dict[str, Any]:
    """Rows read, changed, dropped and reported over several sources."""
    accounts = list(accounts)
    return {
        "rows": sum(account.read for account in accounts),
        "changed": sum(account.changed for account in accounts),
        "dropped": _sum(account.dropped for account in accounts),
        "reported": _sum(account.reported for account in accounts),
    }


def _sum(counts: Iterable[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total += count
    return dict(sorted(total.items()))


class Ledger:
    """Applies the policies of the rules and writes down what they did."""

    def __init__(self, path: Path, cleaning: Cleaning) -> None:
        self.path = path
        self._cleaning = cleaning
        self._file = path.open("w", encoding="utf-8")

    def strike(self, account: Account, rule: str, place: str, reason: str, excerpt: str) -> bool:
        """A row falls under a rule. True: it is to be left out.

        ``place`` is file, unit and number: ``train.jsonl line 3``. Raises ``BadData`` where the
        rule's policy is Fail and a few rows are known.
        """
        policy = self._cleaning.policy(rule)
        examples = account.examples.setdefault(rule, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{place}: {reason}")
        if policy == "Fail":
            account.dropped[rule] += 1
            if account.dropped[rule] == _EXAMPLES:
                self.refuse(account)
            return True
        counts = account.dropped if policy == "Drop" else account.reported
        counts[rule] += 1
        if policy == "Drop" or counts[rule] <= MAX_REPORTED:
            self._write(policy, account, rule, place, reason, excerpt)
        return policy == "Drop"

    def refuse(self, account: Account) -> None:
        """Raise ``BadData`` if rows fell under a rule whose policy is Fail."""
        for rule in account.dropped:
            if self._cleaning.policy(rule) == "Fail":
                raise BadData(
                    f"{account.field}: {'; '.join(account.examples[rule])} "
                    f"(spec.data.cleaning.{rule} is Fail)",
                    "correct these rows, or set the rule to Drop",
                )

    def close(self) -> None:
        self._file.close()

    def _write(
        self, policy: str, account: Account, rule: str, place: str, reason: str, excerpt: str
    ) -> None:
        file, unit, number = place.rsplit(" ", 2)
        record = {
            "rule": rule,
            "action": "dropped" if policy == "Drop" else "reported",
            "source": account.field,
            "file": file,
            unit: int(number),
            "reason": reason,
            "excerpt": excerpt[:MAX_EXCERPT],
        }
        self._file.write(json.dumps(record) + "\n")
