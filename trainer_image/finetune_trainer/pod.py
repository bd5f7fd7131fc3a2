"""A training pod, as its environment describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer import outcome
from finetune_trainer.config import RUN_JSON, WORKSPACE, RunConfig, load_run_config
from finetune_trainer.errors import ConfigInvalid


@dataclass(frozen=True)
class Pod:
    """Where this pod stands and where its files are."""

    config: RunConfig
    attempt: int
    index: int
    workspace: Path
    termination_log: Path

    @property
    def folder(self) -> Path:
        return self.workspace / "attempts" / str(self.attempt)

    @property
    def result_path(self) -> Path | None:
        """result.json belongs to the pod of rank 0: the others would overwrite its numbers."""
        return self.folder / "result.json" if self.index == 0 else None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Pod:
        """Raises ``ConfigError`` or ``ConfigInvalid`` where run.json or a variable is wrong."""
        run_json = Path(env.get("FINETUNE_RUN_JSON", RUN_JSON))
        numbers = {}
        for name in ("FINETUNE_ATTEMPT", "JOB_COMPLETION_INDEX"):
            if not env.get(name, "").isdigit():
                raise ConfigInvalid(f"the environment variable {name} is missing or not a number")
            numbers[name] = int(env[name])
        return cls(
            config=load_run_config(run_json),
            attempt=numbers["FINETUNE_ATTEMPT"],
            index=numbers["JOB_COMPLETION_INDEX"],
            workspace=Path(env.get("FINETUNE_WORKSPACE", WORKSPACE)),
            termination_log=Path(env.get("FINETUNE_TERMINATION_LOG", outcome.TERMINATION_LOG)),
        )
