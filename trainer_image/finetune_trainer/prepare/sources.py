"""Where the data files of a source are: mounted, in a hub repository, a bucket, or behind https."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.config import DataSource
from finetune_trainer.errors import BadData
from finetune_trainer.object_store import BucketError
from finetune_trainer.prepare import s3
from finetune_trainer.prepare.choice import choose, some
from finetune_trainer.prepare.configs import config_files
from finetune_trainer.prepare.download import DownloadError, download
from finetune_trainer.prepare.hub import HubError, fetch
from finetune_trainer.prepare.licence import licence_name, read_card


@dataclass(frozen=True)
class SourceFile:
    path: Path
    name: str
    """As the user knows it: relative to the source, for messages."""


@dataclass(frozen=True)
class Located:
    files: list[SourceFile]
    commit: str | None = None
    """Of a hub repository: what the revision meant."""
    licence: str | None = None
    """As the README.md of the repository or of the mounted folder names it."""
    apart: Path | None = None
    """File of rows that could not be read before, see ``rows.read_apart``."""


def locate(source: DataSource, scratch: Path, max_bytes: int) -> Located:
    """The data files of ``source``, downloaded below ``scratch`` if they are not mounted.

    Raises ``BadData`` with the field that names the missing thing.
    """
    if source.path is not None:
        place = Path(source.path)
        licence = licence_name(read_card(place)) if (place / "README.md").is_file() else None
        return Located(_mounted(source, place), licence=licence)
    if source.url is not None:
        try:
            path = download(source.url, scratch, max_bytes)
        except DownloadError as error:
            raise BadData(f"{source.field}.uri: {error}", error.hint) from error
        return Located([SourceFile(path, path.name)])
    if source.s3 is not None:
        try:
            objects = s3.fetch(
                source.s3, lambda names: _in_repository(source, names), scratch, max_bytes
            )
        except BucketError as error:
            raise BadData(f"{source.field}.uri: {error}", error.hint) from error
        return Located([SourceFile(objects.folder / name, name) for name in objects.files])
    return _hub(source, scratch, max_bytes)


def _mounted(source: DataSource, path: Path) -> list[SourceFile]:
    if source.file is not None:
        wanted = path / source.file
        if not wanted.exists():
            raise BadData(
                f"{source.field}.file: {source.file} does not exist there", _listing(path)
            )
        path = wanted
    if not path.exists():
        raise BadData(
            f"{source.field}.uri: nothing at {path.name}",
            f"check the path in the uri; {_listing(path.parent)}",
        )
    if path.is_file():
        return [SourceFile(path, path.name)]
    names = [str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()]
    return [SourceFile(path / name, name) for name in choose(source, names)]


def _hub(source: DataSource, scratch: Path, max_bytes: int) -> Located:
    if source.hub is None:
        raise BadData(f"{source.field}.uri: no place is named")
    try:
        fetched = fetch(
            source.hub,
            "dataset",
            lambda names, card: _in_repository(source, names, card),
            scratch,
            max_bytes=max_bytes,
        )
    except HubError as error:
        raise BadData(f"{source.field}.uri: {error}", error.hint) from error
    files = [SourceFile(fetched.folder / name, name) for name in fetched.files]
    return Located(files, fetched.commit, licence_name(fetched.card))


def _in_repository(
    source: DataSource, names: list[str], card: Mapping[str, Any] | None = None
) -> list[str]:
    """``card``: of a hub repository, the front matter of its README.md."""
    if source.file is None:
        return choose(source, names) if card is None else config_files(source, names, card)
    if source.file in names:
        return [source.file]
    prefix = source.file.rstrip("/") + "/"
    below = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if not below:
        raise BadData(f"{source.field}.file: there is no {source.file}", some(names, "it has"))
    return [prefix + name for name in choose(source, below)]


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "the folder does not exist either"
    return some(sorted(entry.name for entry in folder.iterdir()), "there are")
