"""What a stage loads for each job, and a process of tests once: it is always the same."""

from __future__ import annotations

from functools import cache

from finetune_trainer.prepare.report import language


def keep_identifier() -> None:
    """Languages are told by one model a process, which no stage gives back."""
    language._load = cache(language._load)
