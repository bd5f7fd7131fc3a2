"""A number that is not finite: from the trainer's /progress to the status and its metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path

from builders import make_facts, status_in

from finetune_operator.api.types import Metrics, StageName
from finetune_operator.job_series import JOB_SERIES
from finetune_operator.policies.numbers import progress_changes
from finetune_operator.reports import read_last_words, read_progress
from finetune_trainer import outcome
from finetune_trainer.progress import Progress, told


def test_an_evaluation_that_is_not_a_number_reaches_the_user(tmp_path: Path) -> None:
    trainer = Progress(0, tmp_path, world_size=1)
    trainer.update(metrics={"loss": 1.25, "evalLoss": math.nan, "perplexity": math.inf})
    status = status_in(StageName.TRAIN, metrics=Metrics(eval_loss="1.8"))
    facts = make_facts(status, progress=read_progress(trainer.render()))
    metrics = progress_changes(facts)["metrics"]
    assert metrics.wire() == {"loss": "1.25", "evalLoss": "NaN", "perplexity": "Infinity"}
    job = make_facts(status.model_copy(update={"metrics": metrics})).job
    (series,) = (each for each in JOB_SERIES if each.name == "finetune_job_eval_loss")
    ((_, value),) = series.read(job, 0.0)
    assert math.isnan(value)


def test_so_do_the_final_numbers() -> None:
    final = told({"metrics": {"evalLoss": math.nan}, "step": 3})
    message = outcome.encode(outcome.succeeded("train", 0, **final)).decode()
    json.loads(message, parse_constant=lambda word: 1 / 0)
    words = read_last_words(message)
    assert words is not None and words.metrics.eval_loss is not None
    assert math.isnan(words.metrics.eval_loss)
