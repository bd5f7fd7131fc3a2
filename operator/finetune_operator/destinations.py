"""Destinations of the result: what the export pod mounts for them, and what run.json says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .api.types import Destination, Output, Switch
from .object_store import Bucket, login_path, login_volume

ROOT = "/destinations"
TOKEN = "token"  # noqa: S105 - the key of the Secret
DOCKER_CONFIG = ".dockerconfigjson"


@dataclass(frozen=True)
class Login:
    """A Secret that the export pod mounts: one key of it, or those of S3."""

    secret: str
    key: str | None
    folder: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.key}"

    def volume(self, name: str) -> dict[str, Any]:
        if self.key is None:
            return login_volume(name, self.secret)
        item = {"key": self.key, "path": self.key}
        secret = {"secretName": self.secret, "items": [item], "defaultMode": 0o440}
        return {"name": name, "secret": secret}


def login(destination: Destination) -> Login | None:
    """What opens the destination; None where nothing is needed."""
    folder = f"{ROOT}/{destination.name}"
    if destination.hub:
        return Login(destination.hub.secret_ref.name, TOKEN, folder)
    if destination.oci and destination.oci.secret_ref:
        return Login(destination.oci.secret_ref.name, DOCKER_CONFIG, folder)
    if destination.s3:
        secret = destination.s3.secret_ref.name
        return Login(secret, None, login_path(folder, secret))
    return None


def destinations(output: Output) -> list[dict[str, Any]]:
    """The list in run.json."""
    return [_entry(number, each) for number, each in enumerate(output.destinations or ())]


def _entry(number: int, destination: Destination) -> dict[str, Any]:
    opens = login(destination)
    entry: dict[str, Any] = {
        "name": destination.name,
        "field": f"spec.output.destinations[{number}]",
        "format": destination.format.value,
    }
    if destination.hub:
        hub = destination.hub
        entry["hub"] = {
            "repository": hub.repository,
            "revision": hub.revision,
            "private": hub.visibility.value == "Private",
            "tokenPath": opens.path if opens else None,
        }
    if destination.oci:
        entry["oci"] = {
            "image": destination.oci.image,
            "plainHTTP": destination.oci.plain_http is Switch.ENABLED,
            "loginPath": opens.path if opens else None,
        }
    if destination.s3:
        place = destination.s3
        entry["s3"] = Bucket(place.uri, place, f"{ROOT}/{destination.name}").told()
    return entry
