"""Buckets: what run.json says of them, and the Secret that a pod mounts for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .api.types import S3Access

S3_SCHEME = "s3://"
ACCESS_KEY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SETTINGS = ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
"""Keys that such a Secret may have besides."""


@dataclass(frozen=True)
class Bucket:
    """One address in a bucket."""

    uri: str
    access: S3Access
    logins: str
    """Folder in the pod below which Secrets are mounted by their names."""

    @property
    def secret(self) -> str | None:
        return self.access.secret_ref.name if self.access.secret_ref else None

    def told(self) -> dict[str, Any]:
        """What run.json says of it; None stands for absent."""
        bucket, _, key = self.uri.removeprefix(S3_SCHEME).partition("/")
        return {
            "bucket": bucket,
            "key": key.rstrip("/"),
            "endpoint": self.access.endpoint,
            "region": self.access.region,
            "loginPath": login_path(self.logins, self.secret) if self.secret else None,
        }


def login_path(logins: str, secret: str) -> str:
    return f"{logins}/{secret}"


def login_volume(name: str, secret: str) -> dict[str, Any]:
    """A volume with those keys of the Secret that belong to S3, and no other."""
    return {
        "name": name,
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {"secret": {"name": secret, "items": _items(ACCESS_KEY)}},
                {"secret": {"name": secret, "items": _items(SETTINGS), "optional": True}},
            ],
        },
    }


def _items(keys: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"key": key, "path": key} for key in keys]
