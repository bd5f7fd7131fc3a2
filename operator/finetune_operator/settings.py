"""What the platform decides for all jobs, read once from the environment at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from .errors import FineTuneError

PREFIX = "FINETUNE_"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LEAST = {
    "workers": 1,
    "progress_seconds": 1,
    "progress_requests": 1,
    "resync_seconds": 10,
    "job_metrics_limit": 0,
}
"""The same bounds as in the chart's schema."""


class BadSetting(FineTuneError):  # noqa: N818
    """An environment variable cannot be used."""


@dataclass(frozen=True)
class Settings:
    """Each field is an environment variable: ``trainer_image`` is ``FINETUNE_TRAINER_IMAGE``."""

    trainer_image: str = "ghcr.io/finetune-operator/trainer:latest"
    """Image of the pods of every stage."""
    image_pull_policy: str = "IfNotPresent"
    """Pull policy of that image."""
    serving_image: str = "vllm/vllm-openai:v0.11.0"
    """Image of the server in the manifest that comes with a result; people apply that."""
    hf_endpoint: str = ""
    """Address of the model hub for ``hf://`` sources; empty: the public one."""
    trainer_env: str = ""
    """Further environment of every pod, ``NAME=value`` separated by blanks, for the platform's
    own needs such as a proxy."""
    namespaces: str = ""
    """Namespaces to watch, separated by commas; empty: all."""
    workers: int = 20
    """Jobs that are looked at side by side."""
    progress_seconds: float = 10.0
    """Pause between two questions about the progress of a job, and between two writes of it."""
    progress_requests: int = 50
    """Progress questions in flight."""
    resync_seconds: float = 300.0
    """Pause between two complete readings of the cluster, ± a fifth."""
    job_metrics_limit: int = 1000
    """Jobs with series of their own on /metrics; the active ones come first."""
    metrics_port: int = 9402
    health_port: int = 8080
    log_level: str = "INFO"

    @property
    def watched_namespaces(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.namespaces.split(",") if name.strip())

    @property
    def trainer_environment(self) -> tuple[tuple[str, str], ...]:
        """Pairs of name and value, ``HF_ENDPOINT`` included."""
        pairs = [pair.partition("=") for pair in self.trainer_env.split()]
        own = [(name, value) for name, _, value in pairs]
        return tuple([("HF_ENDPOINT", self.hf_endpoint), *own] if self.hf_endpoint else own)


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises ``BadSetting`` that names the variable."""
    values: dict[str, str | int | float] = {}
    for field in fields(Settings):
        variable = PREFIX + field.name.upper()
        if variable not in environment:
            continue
        convert = {"int": int, "float": float}.get(str(field.type), str)
        try:
            values[field.name] = convert(environment[variable])
        except ValueError as error:
            raise BadSetting(f"{variable}: {environment[variable]!r} is not a number") from error
    settings = Settings(**values)  # type: ignore[arg-type]
    for name, least in LEAST.items():
        if not getattr(settings, name) >= least:
            raise BadSetting(f"{PREFIX}{name.upper()}: must be at least {least}")
    if settings.log_level not in LOG_LEVELS:
        raise BadSetting(f"{PREFIX}LOG_LEVEL: must be one of {', '.join(LOG_LEVELS)}")
    for pair in settings.trainer_env.split():
        if "=" not in pair:
            raise BadSetting(f"{PREFIX}TRAINER_ENV: {pair!r} is not NAME=value")
    return settings
