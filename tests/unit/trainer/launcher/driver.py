"""Runs the real launcher over ranks that are shell scripts: argv is workspace, then the script."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from finetune_trainer.launcher import Launcher
from finetune_trainer.logs import configure
from finetune_trainer.pod import Pod

if __name__ == "__main__":
    configure()
    workspace, script = sys.argv[1:]
    environment = {
        **os.environ,
        "FINETUNE_RUN_JSON": f"{workspace}/run.json",
        "FINETUNE_WORKSPACE": workspace,
        "FINETUNE_TERMINATION_LOG": f"{workspace}/termination-log",
        "FINETUNE_ATTEMPT": "2",
        "MASTER_ADDR": "tiny-a2-0.tiny",
        "MASTER_PORT": "29502",
    }
    environment.setdefault("JOB_COMPLETION_INDEX", "0")
    pod = Pod.from_env(environment)
    assert pod.workspace == Path(workspace)
    patience = {
        name.lower(): float(environment[name])
        for name in ("LOOK_SECONDS", "VOLUME_SECONDS")
        if name in environment
    }
    command = ("/bin/sh", "-c", script)
    sys.exit(Launcher(pod, environment, command=command, **patience).run())
