"""Small OCI images made without a build tool, uploaded straight to a registry.

The cluster's own `pause` image comes from here: one static program that sleeps. So do the images
of tests that need a shell or a volume with one file in it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from local_cluster.debian import debian_binary
from local_cluster.errors import LocalClusterError
from local_cluster.layout import Cache
from local_cluster.registry import IMAGE_HOST, digest_of, repository_and_tag, request

PAUSE_IMAGE = f"{IMAGE_HOST}/pause:1"
BUSYBOX = ("busybox-static", "bin/busybox")
BUSYBOX_IMAGE = f"{IMAGE_HOST}/busybox:1"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_APPLETS = (
    *("sh", "sleep", "cat", "echo", "ls", "nslookup", "wget", "httpd", "head", "tail", "dd", "id"),
    *("touch", "true", "false", "env", "mkdir", "nc", "date", "mount", "timeout", "grep"),
)


def upload_image(
    address: str,
    image: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    user: str = "",
) -> str:
    """Make an image of one layer and upload it to the registry at `address`; its digest.

    files: path -> content, all executable and readable by everybody. links: path -> target.
    The same input gives the same digest.
    """
    layer = _layer(files, links or {})
    compressed = gzip.compress(layer, mtime=0)
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Cmd": list(command),
                "Env": ["PATH=/bin"],
                **({"User": user} if user else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", config),
            "layers": [_descriptor(f"{kind}.layer.v1.tar+gzip", compressed)],
        }
    ).encode()
    repository, tag = repository_and_tag(image)
    for blob in (compressed, config):
        _upload_blob(address, repository, blob)
    path = f"/v2/{repository}/manifests/{tag}"
    _accepted(address, "PUT", path, manifest, f"{kind}.manifest.v1+json")
    return _digest(manifest)


def ensure_base_images(cache: Cache, address: str) -> None:
    """Upload the pause image, and the shell that tests use, unless the registry has them."""
    commands = {PAUSE_IMAGE: ["/bin/busybox", "sleep", "infinity"], BUSYBOX_IMAGE: ["/bin/sh"]}
    for image, command in commands.items():
        if digest_of(address, image) is not None:
            continue
        busybox = debian_binary(*BUSYBOX, cache).read_bytes()
        links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
        upload_image(address, image, {"bin/busybox": busybox}, links=links, command=command)


def _layer(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = {
            "/".join(path.split("/")[:depth])
            for path in (*files, *links)
            for depth in range(1, path.count("/") + 1)
        }
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for path, target in sorted(links.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _upload_blob(address: str, repository: str, data: bytes) -> None:
    base = f"/v2/{repository}/blobs"
    if request(address, "HEAD", f"{base}/{_digest(data)}").status == 200:
        return
    location = urlsplit(_accepted(address, "POST", f"{base}/uploads/", b""))
    query = f"{location.query}&" if location.query else ""
    _accepted(
        address,
        "PUT",
        f"{location.path}?{query}digest={_digest(data)}",
        data,
        "application/octet-stream",
    )


def _accepted(address: str, method: str, path: str, body: bytes, media_type: str = "") -> str:
    """Send a body; the answer's Location."""
    headers = {"Content-Type": media_type} if media_type else {}
    response = request(address, method, path, body, headers)
    if response.status not in (201, 202):
        raise LocalClusterError(f"The registry at {address} answers {response.status} to {path}.")
    return response.headers.get("Location", "")
