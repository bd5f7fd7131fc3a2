"""The image registry: Debian's docker-registry over storage in the cache.

The storage outlives clusters and is shared by all of them, so a warm start needs no push. One
registry process runs inside each cluster; another may serve the same storage on the host's
loopback for as long as a push or a pull needs it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from local_cluster.api import wait_for
from local_cluster.debian import debian_binary
from local_cluster.errors import LocalClusterError
from local_cluster.images.store import push as push_image
from local_cluster.layout import Cache, locked, private_dir, write_private
from local_cluster.processes import ProcessTable, bound_to_us

REGISTRY_PORT = 5000

# Always the same, because buildah remembers which layers a registry has by host and port.
PUSH_PORT = 38175

# Image names as nodes know them; each node's containerd maps the host to its registry.
IMAGE_HOST = f"localhost:{REGISTRY_PORT}"

DOCKER_REGISTRY = ("docker-registry", "usr/bin/docker-registry")


def repository_and_tag(image: str) -> tuple[str, str]:
    """`localhost:5000/team/name:tag` -> (`team/name`, `tag`); the host may be left out."""
    name = image.removeprefix("docker://")
    host, _, rest = name.partition("/")
    if rest and (":" in host or "." in host or host == "localhost"):
        name = rest
    repository, colon, tag = name.rpartition(":")
    if not colon or "@" in name or "/" in tag:
        raise LocalClusterError(f"'{image}' names no tag: use <name>:<tag>.")
    return repository, tag


def write_config(path: Path, storage: Path, address: str) -> Path:
    """The configuration of a registry process that listens on `address`."""
    config = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        # No cache of blob descriptions: several processes share the storage.
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": address},
    }
    return write_private(path, json.dumps(config))  # JSON is YAML


def request(
    address: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> http.client.HTTPResponse:
    """One call of a registry at `address` (host:port), read to its end; OSError without answer.

    Plain http.client, which goes past any proxy that the environment names.
    """
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        response.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
    return response


def answers(address: str) -> bool:
    """Whether a registry speaks at `address` (host:port)."""
    try:
        return request(address, "GET", "/v2/").status == 200
    except OSError:
        return False


def digest_of(address: str, image: str) -> str | None:
    """The manifest digest behind an image's tag; None when the registry does not have it."""
    repository, tag = repository_and_tag(image)
    path = f"/v2/{repository}/manifests/{tag}"
    response = request(address, "HEAD", path, headers={"Accept": ", ".join(_MANIFESTS)})
    if response.status == 404:
        return None
    if response.status != 200:
        raise LocalClusterError(f"The registry at {address} answers {response.status} to {path}.")
    return response.headers["Docker-Content-Digest"]


_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


def start_registry(cache: Cache, etc: Path, processes: ProcessTable, netns: str, door: str) -> None:
    """Start the cluster's registry; it listens on every address of the namespace."""
    private_dir(cache.registry)
    config = write_config(etc / "registry.json", cache.registry, f"0.0.0.0:{REGISTRY_PORT}")
    program = debian_binary(*DOCKER_REGISTRY, cache)
    processes.start("registry", [program, "serve", config], netns=netns)
    wait_for(
        "The image registry does not answer",
        lambda: answers(f"{door}:{REGISTRY_PORT}"),
        20,
        f"see {processes.log('registry')}.",
    )


@contextlib.contextmanager
def temporary_registry(cache: Cache, port: int = 0) -> Iterator[str]:
    """A registry on the host's loopback, over the same storage; its address.

    port: the one to prefer; a free one is taken where it is 0 or in use.
    """
    private_dir(cache.registry)
    program = debian_binary(*DOCKER_REGISTRY, cache)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="ftc-registry-") as folder:
        work = Path(folder)
        config = write_config(work / "config.json", cache.registry, address)
        processes = ProcessTable(work, work)
        processes.start("registry", bound_to_us(program, "serve", config))
        try:
            wait_for(
                "A registry on loopback does not answer",
                lambda: answers(address),
                20,
                "another program may have taken its port; try again.",
            )
            yield address
        finally:
            processes.stop("registry", grace=2)


def push(cache: Cache, image: str) -> None:
    """Push an image of a buildah store, ours or the host's, into the storage.

    Over loopback even where a cluster runs: a proxy in the environment never claims that.
    """
    repository, tag = repository_and_tag(image)
    with (
        locked(cache.lock("registry"), shared=True),
        locked(cache.lock("registry-push")),
        temporary_registry(cache, PUSH_PORT) as address,
    ):
        push_image(image, f"{address}/{repository}:{tag}", lambda _detail: None)


def tags(cache: Cache) -> list[str]:
    """Every image in the storage, as `<name>:<tag>`."""
    repositories = cache.registry / "docker/registry/v2/repositories"
    return sorted(
        f"{tag.parents[2].relative_to(repositories)}:{tag.name}"
        for tag in repositories.glob("**/_manifests/tags/*")
    )


def prune(cache: Cache, keep: set[str]) -> list[str]:
    """Remove every image but those of `keep`, and the blobs that nothing needs; what went.

    Holds the lock that pushes share: a blob that is being uploaded must not be collected.
    """
    program = debian_binary(*DOCKER_REGISTRY, cache)
    kept = {":".join(repository_and_tag(image)) for image in keep}
    repositories = cache.registry / "docker/registry/v2/repositories"
    with locked(cache.lock("registry")), tempfile.TemporaryDirectory() as folder:
        gone = [image for image in tags(cache) if image not in kept]
        for image in gone:
            repository, _, tag = image.rpartition(":")
            shutil.rmtree(repositories / repository / "_manifests/tags" / tag)
        config = write_config(Path(folder) / "config.json", cache.registry, "127.0.0.1:0")
        subprocess.run(
            [program, "garbage-collect", "--delete-untagged", config],
            check=True,
            capture_output=True,
        )
    return gone
