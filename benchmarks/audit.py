"""The API server's audit log: who wrote what, after a moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

WRITES = ("create", "update", "patch", "delete")


class AuditLog:
    """The log file of the local cluster's API server."""

    def __init__(self, path: Path, user: str) -> None:
        """``user`` is the one whose requests are looked at."""
        self._path = path
        self._user = user

    def now(self) -> int:
        """The present end of the log."""
        return self._path.stat().st_size

    def writes(self, since: int, namespace: str) -> Iterator[str]:
        """Verb and resource of the user's writes in a namespace, without Events."""
        with self._path.open() as log:
            log.seek(since)
            for line in log:
                if not line.endswith("\n"):
                    return  # it is being written
                entry = json.loads(line)
                what = entry.get("objectRef", {})
                kind = "/".join(filter(None, (what.get("resource"), what.get("subresource"))))
                if (
                    entry["user"]["username"] == self._user
                    and entry["verb"] in WRITES
                    and what.get("namespace") == namespace
                    and kind != "events"
                ):
                    yield f"{entry['verb']} {kind}"
