"""Downloading one file by https: bounded in size, never redirected to anything but https."""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 4
_CHUNK = 2**20


class DownloadError(Exception):
    """The file cannot be had. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class _RetryableError(DownloadError):
    """The server or the network may do better next time."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise DownloadError(
                f"{req.full_url} redirects to {newurl}, which is not https",
                "name the https address of the file itself",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, folder: Path, max_bytes: int, pause_seconds: float = 2.0) -> Path:
    """Fetch ``url`` into ``folder`` under its own file name and return the path.

    Tries again after network errors and HTTP 429 or 5xx. Raises ``DownloadError``; then no file is
    left behind.
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise DownloadError(f"{url} is not https", "serve the file by https, or use a claim")
    name = PurePosixPath(unquote(parts.path)).name
    if not name:
        raise DownloadError(f"{url} names no file", "end the address with the file's name")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _fetch(url, target, max_bytes)
        except _RetryableError as error:
            target.unlink(missing_ok=True)
            if attempt == _ATTEMPTS:
                raise DownloadError(f"{error} (tried {attempt} times)", error.hint) from error
            log.warning("%s; trying again", error)
            time.sleep(pause_seconds * 2 ** (attempt - 1))
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    raise AssertionError("unreachable")


def _fetch(url: str, target: Path, max_bytes: int) -> Path:
    opener = urllib.request.build_opener(_HttpsOnly)
    request = urllib.request.Request(url, headers={"User-Agent": "finetune-trainer"})  # noqa: S310
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            announced = int(response.headers.get("Content-Length") or 0)
            if announced > max_bytes:
                raise _too_large(url, max_bytes)
            received = _copy(response, target, url, max_bytes)
            if announced and received != announced:
                raise _RetryableError(f"{url} ended after {received} of {announced} bytes")
    except urllib.error.HTTPError as error:
        message = f"{url} answers HTTP {error.code} {error.reason}"
        if error.code == 429 or error.code >= 500:
            raise _RetryableError(message) from error
        raise DownloadError(message, "check the address, and that it needs no login") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise _RetryableError(f"{url} cannot be reached: {reason}") from error
    except ConnectionError as error:
        raise _RetryableError(f"{url} broke off: {error}") from error
    return target


def _copy(response: IO[bytes], target: Path, url: str, max_bytes: int) -> int:
    received = 0
    with target.open("wb") as file:
        while chunk := response.read(_CHUNK):
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(url, max_bytes)
            file.write(chunk)
    return received


def _too_large(url: str, max_bytes: int) -> DownloadError:
    return DownloadError(
        f"{url} is larger than the limit of {max_bytes} bytes",
        "put the data on a claim (pvc://) instead",
    )
