"""What prepare tells of model and data at its end, for the status of the job."""

from __future__ import annotations

from typing import Any

from finetune_trainer.config import RunConfig
from finetune_trainer.prepare.shape import shape_of_job

_MAX_SOURCES = 8
"""Sources that the termination message speaks of; the manifest has all."""
_MAX_WARNINGS = 6
"""In the termination message; the report has all."""


def counts_of(manifest: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "preparedBy augment rows kept changed dropped reported truncated tokens supervisedTokens "
        "packedRows evalRows evalTokens evalPackedRows generalRows generalTokens longestRow "
        "mostSupervised digest"
    )
    reports = [*manifest["sources"], *manifest["evalSources"], *manifest["generalSources"]]
    sources = [
        {"field": account["field"], "format": report["format"], "decided": report["decided"][:200]}
        | {key: account[key] for key in ("rows", "kept", "dropped")}
        | _drawn(account)
        for report, account in zip(reports, manifest["accounts"], strict=True)
    ]
    return {key: manifest[key] for key in keys.split() if key in manifest} | {
        "warnings": manifest["warnings"][:_MAX_WARNINGS],
        "sources": sources[:_MAX_SOURCES],
    }


def _drawn(account: dict[str, Any]) -> dict[str, Any]:
    """What the weight of a source makes of it; ``epochs`` as a decimal string."""
    if "drawn" not in account:
        return {}
    told = {key: account[key] for key in ("drawn", "notDrawn")}
    return told | {"epochs": f"{account['epochs']:.6g}"}


def summary_of(config: RunConfig, model: dict[str, Any]) -> dict[str, Any]:
    keys = ("architecture", "parameters", "contextLength", "digest", "commit")
    told = {key: model[key] for key in keys if model.get(key) is not None}
    return told | {"shape": shape_of_job(model, config.method.lora)}
