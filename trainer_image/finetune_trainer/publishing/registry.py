"""Pushing an image to a registry (OCI distribution-spec 1.1), blobs first and its tag last.

Until the last request the tag names what it named before. Blobs are streamed from their files.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin
from urllib.request import parse_http_list, parse_keqv_list

import httpx2

from finetune_trainer.publishing.image import MANIFEST_TYPE, Blob, Image

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_ATTEMPTS = 4
_TIMEOUT = httpx2.Timeout(60, read=300)


class RegistryError(Exception):
    """The registry does not take the image. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None, *, again: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.again = again
        """A later try may succeed."""


def read_login(path: Path, host: str) -> tuple[str, str]:
    """User and password for ``host`` in a file of the form of docker's config.json.

    Raises ``RegistryError``.
    """
    try:
        logins = json.loads(path.read_text())["auths"]
        found = next(
            logins[name] for name in (host, f"https://{host}", f"http://{host}") if name in logins
        )
        if "auth" in found:
            user, _, password = base64.b64decode(found["auth"]).decode().partition(":")
            return user, password
        return found["username"], found["password"]
    except StopIteration:
        raise RegistryError(
            f"the Secret has no login for {host}",
            f"make it with: kubectl create secret docker-registry NAME --docker-server={host} …",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"the Secret holds no login that can be read ({type(error).__name__})",
            "make it with: kubectl create secret docker-registry",
        ) from error


class Registry:
    """One repository of a registry."""

    def __init__(
        self,
        host: str,
        repository: str,
        *,
        plain_http: bool = False,
        login: tuple[str, str] | None = None,
        pause_seconds: float = 2.0,
    ) -> None:
        self._host = host
        self._scheme = "http://" if plain_http else "https://"
        self._base = f"{self._scheme}{host}"
        self._path = f"/v2/{repository}"
        self._scope = f"repository:{repository}:pull,push"
        self._login = login
        self._pause = pause_seconds
        self._authorization: str | None = None
        self._client = httpx2.Client(timeout=_TIMEOUT)

    def push(self, image: Image, tag: str) -> str:
        """Returns the digest of the manifest. Raises ``RegistryError``."""
        try:
            for blob in image.blobs:
                self._again_and_again(lambda blob=blob: self._push_blob(blob))  # type: ignore[misc]
            return self._again_and_again(lambda: self._push_manifest(image, tag))
        finally:
            self._client.close()

    def _push_blob(self, blob: Blob) -> None:
        there = self._request("HEAD", f"{self._path}/blobs/{blob.digest}", missing=True)
        if there.status_code == 200:
            return
        log.info("pushing %d bytes: %s", blob.size, blob.digest)
        begun = self._request("POST", f"{self._path}/blobs/uploads/")
        place = urljoin(str(begun.request.url), begun.headers["Location"])
        place += ("&" if "?" in place else "?") + f"digest={blob.digest}"
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        self._request("PUT", place, blob.read, headers)

    def _push_manifest(self, image: Image, tag: str) -> str:
        headers = {"Content-Type": MANIFEST_TYPE, "Content-Length": str(len(image.manifest))}
        self._request(
            "PUT", f"{self._path}/manifests/{tag}", lambda: iter((image.manifest,)), headers
        )
        return image.digest

    def _request(
        self,
        method: str,
        place: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: dict[str, str] | None = None,
        *,
        missing: bool = False,
    ) -> httpx2.Response:
        """One request, and once more with a login where the registry asks for one."""
        url = urljoin(self._base, place)
        for last in (False, True):
            # A login goes to the registry alone, wherever it asks to send the content.
            ours = self._authorization if url.startswith(f"{self._base}/") else None
            sent = {**(headers or {}), **({"Authorization": ours} if ours else {})}
            response = self._client.request(
                method,
                url,
                content=body() if body else None,
                headers=sent,
                follow_redirects=method == "HEAD",
            )
            if response.status_code != 401 or last:
                break
            self._authorization = self._answer(response)
        if response.is_success or (missing and response.status_code == 404):
            return response
        raise self._refused(response)

    def _answer(self, response: httpx2.Response) -> str:
        """What to say to a registry that asks who is there."""
        scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        if scheme.lower() == "basic" and self._login:
            return "Basic " + base64.b64encode(":".join(self._login).encode()).decode()
        if scheme.lower() != "bearer":
            raise self._refused(response)
        asked = parse_keqv_list(parse_http_list(rest))
        realm = asked.get("realm", "")
        if not realm.startswith(("https://", self._scheme)):
            raise RegistryError(f"{self._host} wants the login sent to {realm!r}: not done")
        query = {"scope": self._scope}
        if "service" in asked:
            query["service"] = asked["service"]
        answer = self._client.get(realm, params=query, auth=self._login)
        if not answer.is_success:
            raise self._refused(answer)
        given: dict[str, Any] = answer.json()
        return f"Bearer {given.get('token') or given.get('access_token')}"

    def _refused(self, response: httpx2.Response) -> RegistryError:
        status = response.status_code
        said = _said(response)
        if status in (401, 403):
            hint = (
                "the account of secretRef must be allowed to push there"
                if self._login
                else "name a Secret with a login in oci.secretRef"
            )
            return RegistryError(f"{self._host} refuses the push: HTTP {status}{said}", hint)
        again = status in (408, 425, 429) or status >= 500
        return RegistryError(
            f"{self._host} answers HTTP {status}{said}",
            "try again later" if again else "check image: registry, repository and tag",
            again=again,
        )

    def _again_and_again(self, work: Callable[[], _T]) -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work()
            except RegistryError as error:
                if not error.again or attempt == _ATTEMPTS:
                    raise
                cause: Exception = error
            except httpx2.TransportError as error:
                cause = error
                if attempt == _ATTEMPTS:
                    raise RegistryError(
                        f"{self._host} cannot be reached (tried {_ATTEMPTS} times): "
                        f"{type(error).__name__}: {error}",
                        "let the export pod reach it (name, NetworkPolicy, proxy); oci.plainHTTP "
                        "where it speaks HTTP without encryption",
                        again=True,
                    ) from error
            log.warning("%s: %s", self._host, cause)
            time.sleep(self._pause * 2 ** (attempt - 1))
        raise AssertionError  # the loop returns or raises


def _said(response: httpx2.Response) -> str:
    """The registry's own words, if it has some."""
    try:
        told = response.json()["errors"][0]
        return f": {told.get('code')}: {told.get('message')}"[:300]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
