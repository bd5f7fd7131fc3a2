"""A small client of the API server: JSON over HTTPS with a client certificate.

The official client takes over a second to import and a warm start has 45 of them.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from local_cluster.errors import LocalClusterError
from local_cluster.pki import KeyPair

API_PORT = 6443

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server's answer was no; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Calls to one API server as the bearer of one client certificate."""

    def __init__(self, host: str, authority: KeyPair, client: KeyPair) -> None:
        self._host = host
        self._tls = ssl.create_default_context(cafile=str(authority.certificate))
        self._tls.load_cert_chain(client.certificate, client.key)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> tuple[int, bytes]:
        """Status code and body of one request; OSError where the server does not answer."""
        connection = http.client.HTTPSConnection(
            self._host, API_PORT, context=self._tls, timeout=timeout
        )
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type, "Accept": "application/json"},
            )
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """The answer as an object; ApiError for any status of 400 and above."""
        status, answer = self.call(method, path, body, content_type)
        if status >= 400:
            raise ApiError(status, answer.decode(errors="replace")[:500])
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply: creates the object or brings it to what the manifest says."""
        query = "fieldManager=local-cluster&force=true"
        return self.json("PATCH", f"{path}?{query}", manifest, APPLY_PATCH)

    def ready(self) -> bool:
        """Whether the server says of itself that it is ready."""
        try:
            return self.call("GET", "/readyz", timeout=2.0)[0] == 200
        except OSError:
            return False


def wait_for(
    what: str, condition: Callable[[], bool], seconds: float, advice: str, interval: float = 0.1
) -> None:
    """Poll `condition`; a sentence with `advice` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LocalClusterError(f"{what} after {seconds:.0f} s: {advice}")
        time.sleep(interval)


def kubeconfig(server: str, authority: KeyPair, client: KeyPair, name: str) -> dict[str, Any]:
    """A kubeconfig with everything inside, so that the file can be copied."""

    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": inline(authority.certificate),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": inline(client.certificate),
                    "client-key-data": inline(client.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
