"""The entry point of the training image: runs one stage, reports how it ended, exits with its code.

Only here are the stage's environment variables read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_trainer import lean_imports, outcome
from finetune_trainer.config import RUN_JSON, WORKSPACE, Lock, RunConfig, load_run_config
from finetune_trainer.errors import DiskFull, Preempted, failure_class
from finetune_trainer.logs import configure, redact_streams
from finetune_trainer.stage_attempt import Stage, StageAttempt

OUTPUT = Path("/output")
REUSED = Path("/sources/reused")
USAGE = "usage: python -m finetune_trainer prepare|train|export|answer"

log = logging.getLogger("finetune_trainer")


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Run the stage that ``argv`` names and return the exit code of the process."""
    stage, *rest = argv or [""]
    match stage:
        case "prepare":
            return _report("prepare", env, _prepare)
        case "fetch":  # the beginning of prepare, where a container of the user follows
            return _report("prepare", env, _fetch, told_in="fetch")
        case "export":
            return _report("export", env, _export)
        case "train":
            from finetune_trainer import launcher

            return launcher.main()
        case "answer":
            lean_imports.begin()
            from finetune_trainer import answer

            lean_imports.end()
            configure()
            return answer.main(rest)
    sys.stderr.write(f"{USAGE}\n")
    return 64


def _prepare(config: RunConfig, workspace: Path, env: Mapping[str, str]) -> dict[str, Any]:
    # Imports torch and transformers: later, so that even their failure is reported.
    lean_imports.begin()
    from finetune_trainer.prepare import stage

    lean_imports.end()
    augmented, shared = env.get("FINETUNE_AUGMENTED"), env.get("FINETUNE_SHARED_DATA")
    return stage.run(
        config,
        workspace,
        Path(augmented) if augmented else None,
        Path(shared) if shared else None,
        _number(env),
    )


def _fetch(config: RunConfig, workspace: Path, env: Mapping[str, str]) -> dict[str, Any]:
    lean_imports.begin()
    from finetune_trainer.prepare import augment

    lean_imports.end()
    StageAttempt(workspace, "prepare", _number(env)).begin()
    return augment.fetch_rows(config.data, Path(env["FINETUNE_AUGMENTED"]))


def _export(config: RunConfig, workspace: Path, env: Mapping[str, str]) -> dict[str, Any]:
    lean_imports.begin()
    from finetune_trainer import export, published, reuse
    from finetune_trainer.judging.scorers import read_words

    lean_imports.end()
    output = Path(env.get("FINETUNE_OUTPUT", OUTPUT)) if config.output.external else None
    place = output or workspace / "output"
    lock = Lock.model_validate_json(env["FINETUNE_LOCK"]) if "FINETUNE_LOCK" in env else None
    named = env.get("FINETUNE_TRAIN_ATTEMPT")
    serving = Path(env.get("FINETUNE_RUN_JSON", RUN_JSON)).with_name(published.SERVING)
    try:
        if lock is not None and (other := env.get("FINETUNE_REUSE")):
            source = Path(env.get("FINETUNE_REUSED", REUSED))
            taker = StageAttempt(workspace, "export", _number(env), config.job.uid)
            taker.begin()
            return reuse.reuse_result(config, lock, other, source, place, serving, taker)
        attempt = export.newest_attempt(config, workspace) if named is None else int(named)
        said = read_words(env.get("FINETUNE_SCORERS"))
        return export.run(config, workspace, place, attempt, serving, lock, said, _number(env))
    except Exception as error:
        if output is None or failure_class(error) is not DiskFull.failure:
            raise
        raise DiskFull(
            f"no space is left on the claim of spec.output.uri: {error}",
            "enlarge that claim, or free space on it",
        ) from error


def _report(
    stage: Stage,
    env: Mapping[str, str],
    run: Callable[[RunConfig, Path, Mapping[str, str]], dict[str, Any]],
    told_in: str | None = None,
) -> int:
    """Run a stage of one process; whatever happens, its outcome is reported. ``told_in``: name of
    its file on the volume; None: that of the stage."""
    configure()
    # Progress bars are noise in a pod's log. The libraries read this when they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    recent = outcome.RecentLines()
    recent.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(recent)
    attempt = _number(env)
    workspace = Path(env.get("FINETUNE_WORKSPACE", WORKSPACE))
    termination_log = Path(env.get("FINETUNE_TERMINATION_LOG", outcome.TERMINATION_LOG))

    def stopped() -> int:
        error = Preempted("asked to stop; the stage begins anew with its next attempt")
        result = outcome.failed(stage, attempt, error, recent.lines) | {"outcome": "preempted"}
        outcome.report(result, None, termination_log)
        return Preempted.failure.exit_code

    _on_sigterm(stopped)
    fence = StageAttempt(workspace, stage, attempt)
    try:
        config = load_run_config(Path(env.get("FINETUNE_RUN_JSON", RUN_JSON)))
        result = outcome.succeeded(stage, attempt, **run(config, workspace, env))
        code = 0
    except Exception as error:
        log.exception("%s failed", stage)
        # A successor takes away what this attempt works on; that is no failure of its own.
        result = outcome.failed(stage, attempt, _replaced(fence) or error, recent.lines)
        code = int(result["failure"]["exitCode"])
    place = None if _replaced(fence) else workspace / f"{told_in or stage}.json"
    outcome.report(result, place, termination_log)
    return code


def _replaced(fence: StageAttempt) -> Preempted | None:
    with contextlib.suppress(OSError):  # a volume that fails keeps no outcome from being told
        return fence.replaced()
    return None


def _number(env: Mapping[str, str]) -> int:
    """Of the attempt of the stage."""
    return int(env.get("FINETUNE_ATTEMPT", "0"))


def _on_sigterm(last_words: Callable[[], int]) -> None:
    """Leave at once with the code that ``last_words`` returns; nothing is published half.

    The kernel keeps SIGTERM from a PID 1 without a handler: it would sit out its grace period.
    """
    owner = os.getpid()

    def leave(*_: object) -> None:
        if os.getpid() != owner:  # a worker of a library, forked with this handler
            os._exit(128 + signal.SIGTERM)
        os._exit(last_words())

    signal.signal(signal.SIGTERM, leave)


if __name__ == "__main__":
    redact_streams()
    sys.exit(main(sys.argv[1:], os.environ))
