"""Fetching files of a hub repository at one commit. ``HF_ENDPOINT`` and ``HF_TOKEN_PATH`` apply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune_trainer.config import HubRef
from finetune_trainer.errors import first_line

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_T = TypeVar("_T")


class HubError(Exception):
    """The repository cannot be read. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Fetched:
    folder: Path
    files: list[str]
    commit: str
    """What the revision (a branch or tag) meant at this moment."""
    card: dict[str, Any] = field(default_factory=dict)
    """The front matter of its README.md."""


def fetch(
    hub: HubRef,
    kind: Literal["model", "dataset"],
    choose: Callable[[list[str], dict[str, Any]], list[str]],
    folder: Path,
    max_bytes: int | None = None,
    pause_seconds: float = 2.0,
) -> Fetched:
    """Download the files that ``choose`` picks by the repository's file list, and by the front
    matter of its README.md, into ``folder``.

    All come from the commit that the revision names when the download starts. Raises ``HubError``,
    and whatever ``choose`` raises.
    """
    api = HfApi(endpoint=constants.ENDPOINT, library_name="finetune-trainer")
    info = _with_retries(
        hub,
        pause_seconds,
        lambda: api.repo_info(
            hub.repository, revision=hub.revision, repo_type=kind, files_metadata=True
        ),
    )
    siblings = getattr(info, "siblings", None) or []
    found = getattr(info, "card_data", None)
    card = found.to_dict() if found else {}
    files = choose(sorted(sibling.rfilename for sibling in siblings), card)
    total = sum(sibling.size or 0 for sibling in siblings if sibling.rfilename in set(files))
    if max_bytes is not None and total > max_bytes:
        raise HubError(
            f"{hub.repository} holds {total} bytes of data, more than the limit of {max_bytes}",
            "name one file with the field file",
        )
    commit = info.sha or hub.revision
    for name in files:
        log.info("fetching %s of %s@%s", name, hub.repository, commit)
        _with_retries(
            hub,
            pause_seconds,
            lambda name=name: api.hf_hub_download(  # type: ignore[misc]
                hub.repository, name, repo_type=kind, revision=commit, local_dir=folder
            ),
        )
    return Fetched(folder, files, commit, card)


def _with_retries(hub: HubRef, pause_seconds: float, call: Callable[[], _T]) -> _T:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise _refused(hub, error) from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status not in (408, 429) and status < 500:
                raise _refused(hub, error) from error
            cause: Exception = error
        except (
            httpx2.TransportError,
            LocalEntryNotFoundError,
            FileMetadataError,
            ConnectionError,
        ) as error:
            cause = error
        log.warning("%s: %s", hub.repository, cause)
        if attempt < _ATTEMPTS:
            time.sleep(pause_seconds * 2 ** (attempt - 1))
    raise HubError(
        f"{constants.ENDPOINT} cannot be reached for {hub.repository} (tried {_ATTEMPTS} times): "
        f"{first_line(cause)}",
        "check the network and HF_ENDPOINT",
    ) from cause


def _refused(hub: HubRef, error: Exception) -> HubError:
    if isinstance(error, GatedRepoError):
        return HubError(
            f"{hub.repository} is gated and this token has no access",
            "accept its terms on the hub and name a token in spec.model.secretRef",
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{hub.repository} has no revision {hub.revision}", "check the revision")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"{hub.repository} does not exist on {constants.ENDPOINT}, or is private",
            "check the name; a private repository needs a token in spec.model.secretRef",
        )
    return HubError(f"{hub.repository}: {first_line(error)}", "check the name and the token")
