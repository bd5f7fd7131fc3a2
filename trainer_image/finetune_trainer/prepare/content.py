"""What decides the prepared data of a job.

Two digests of it: a cheap one, by which a job knows its own data again, and one of the content of
all files, by which jobs find the data of each other. Where a source lies is no part of the second.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import finetune_trainer
from finetune_trainer.config import DataSource, RunConfig
from finetune_trainer.prepare import manifest as manifests
from finetune_trainer.prepare.sources import Located

PLACES = {"path", "hub", "s3", "url", "file", "config", "split"}
"""Fields of a source that say where its files are."""

Sides = dict[str, list[tuple[DataSource, Located]]]
"""The sources of ``train``, ``eval`` and ``general`` with their files."""


def own_digest(config: RunConfig, model: dict[str, Any], augmented: Path | None = None) -> str:
    """Of all that a job prepares from; mounted files by name, size and time."""
    sources = (*config.data.train, *config.data.eval, *config.data.general)
    paths = {source.path for source in sources if source.path is not None}
    return manifests.digest_of(
        {
            **_settings(config, model),
            "version": manifests.VERSION,
            "data": config.data.model_dump(),
            # By content: what a container wrote again has other times.
            "augmented": augmented and manifests.describe_files(augmented),
            "files": {
                path: manifests.fingerprint(Path(path))
                for path in sorted(paths)
                if Path(path).exists()
            },
        }
    )


def content_digest(
    config: RunConfig, model: dict[str, Any], sides: Sides, augmented: Path | None = None
) -> str:
    """Of everything that decides what is prepared: the rows themselves, as they were fetched, the
    model, the settings, and the program."""
    data = config.data.model_dump()
    for side in sides:
        data[side] = [source.model_dump(exclude=PLACES) for source in getattr(config.data, side)]
    return manifests.digest_of(
        {
            **_settings(config, model),
            "program": program_digest(),
            "data": data,
            "augmented": augmented and manifests.describe_files(augmented),
            "sources": {
                side: [_content(located) for _, located in sources]
                for side, sources in sides.items()
            },
        }
    )


def times(sides: Sides) -> list[Any]:
    """Size and time of all files: equal where nobody has written to them meanwhile."""
    return [
        manifests.fingerprint(file.path)
        for sources in sides.values()
        for _, located in sources
        for file in located.files
    ]


def program_digest() -> str:
    """Of the trainer's files, and the versions of Python and of all that is installed beside it."""
    folder = Path(finetune_trainer.__file__).parent
    files = (path for path in folder.rglob("*") if path.is_file())
    return manifests.digest_of(
        {
            "files": {
                str(path.relative_to(folder)): manifests.file_digest(path)
                for path in sorted(files)
                if path.suffix != ".pyc"
            },
            "python": platform.python_version(),
            "installed": _installed(),
        }
    )


@cache
def _installed() -> list[list[str]]:
    """Names and versions of all packages; a process sees no other ones."""
    return sorted(
        [str(each.metadata["Name"]), str(each.version)] for each in metadata.distributions()
    )


def _settings(config: RunConfig, model: dict[str, Any]) -> dict[str, Any]:
    weighted = any(source.weight is not None for source in config.data.train)
    return {
        **({"seed": config.training.seed} if weighted else {}),
        "paired": [each.model_dump() for each in config.evaluation.paired_prompts],
        "model": model["digest"],
    }


def _content(located: Located) -> dict[str, Any]:
    return {
        "files": [[file.name, manifests.file_digest(file.path)] for file in located.files],
        "commit": located.commit,
        "licence": located.licence,
    }
