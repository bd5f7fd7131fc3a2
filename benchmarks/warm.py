"""Stages of the trainer with one rank, forked from a process that has loaded its libraries.

To load them takes as long as to train a small model.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRELOAD = [
    "finetune_trainer.prepare.stage",
    "finetune_trainer.session",
    "finetune_trainer.model",
    "deepspeed",
    "peft",
    "transformers.models.llama.modeling_llama",
]


def run(stage: str, workspace: Path, attempt: int = 0) -> None:
    """prepare, train or export on ``workspace``. Raises ``RuntimeError`` where it fails."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    place = {
        "FINETUNE_RUN_JSON": str(workspace / "run.json"),
        "FINETUNE_WORKSPACE": str(workspace),
        "FINETUNE_TERMINATION_LOG": str(workspace / "termination-log"),
        "FINETUNE_ATTEMPT": str(attempt),
        "FINETUNE_METRICS_PORT": "0",
        **dict.fromkeys(("RANK", "LOCAL_RANK"), "0"),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1"),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    process = _server().Process(target=_main, args=(stage, place))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{stage} ended with {process.exitcode}: see its output above")


def _server() -> Any:
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _main(stage: str, place: Mapping[str, str]) -> None:
    os.environ |= place
    from finetune_trainer import __main__, rank

    if stage == "train":
        rank.main()  # as its launcher starts it; never returns
    sys.exit(__main__.main([stage], os.environ))
