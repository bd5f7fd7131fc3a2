"""Pushing a folder to a model hub, all of it in one commit. ``HF_ENDPOINT`` applies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from finetune_trainer.config import HubPlace
from finetune_trainer.errors import first_line

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_T = TypeVar("_T")


class HubPushError(Exception):
    """The hub does not take the folder. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None, *, again: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.again = again
        """A later try may succeed."""


def push(folder: Path, hub: HubPlace, message: str, pause_seconds: float = 2.0) -> str:
    """Make the branch hold the files of ``folder`` and nothing else; returns the commit.

    Where it holds them already no commit is made. Raises ``HubPushError``.
    """
    try:
        token = Path(hub.token_path).read_text().strip()
    except OSError as error:
        raise HubPushError(
            f"the Secret holds no token: {error.strerror}", "put the token under the key token"
        ) from error
    if constants.ENDPOINT != constants._HF_DEFAULT_ENDPOINT:
        # Its storage protocol, Xet, is spoken by the public hub; others take files by HTTP.
        constants.HF_HUB_DISABLE_XET = True
    api = HfApi(endpoint=constants.ENDPOINT, token=token, library_name="finetune-trainer")

    def commit() -> str:
        api.create_repo(hub.repository, private=hub.private, exist_ok=True)
        if hub.revision != "main":
            api.create_branch(hub.repository, branch=hub.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=hub.repository,
            folder_path=folder,
            revision=hub.revision,
            commit_message=message,
            delete_patterns="*",
        )
        return str(done.oid)

    return _with_retries(hub, pause_seconds, commit)


def _with_retries(hub: HubPlace, pause_seconds: float, call: Callable[[], _T]) -> _T:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status not in (408, 412, 429) and status < 500:
                raise HubPushError(
                    f"{constants.ENDPOINT} refuses the push to {hub.repository}: HTTP {status}: "
                    f"{first_line(error)}",
                    "the token of hub.secretRef must be allowed to write there, and to make the "
                    "repository where it is not there",
                ) from error
            cause: Exception = error
        except (HFValidationError, ValueError) as error:
            raise HubPushError(
                f"{hub.repository}: {first_line(error)}", "check repository and revision"
            ) from error
        except (httpx2.TransportError, ConnectionError, RuntimeError) as error:
            cause = error  # a RuntimeError wraps what went wrong with one file
        log.warning("%s: %s", hub.repository, cause)
        if attempt < _ATTEMPTS:
            time.sleep(pause_seconds * 2 ** (attempt - 1))
    raise HubPushError(
        f"{constants.ENDPOINT} cannot be reached for {hub.repository} (tried {_ATTEMPTS} times): "
        f"{first_line(cause)}",
        "let the export pod reach it (NetworkPolicy, proxy), and check trainer.hfEndpoint of the "
        "chart",
        again=True,
    ) from cause
