"""The operator's and the trainer's image.

Each is built in two steps that have a tag of their own: all dependencies (minutes, gigabytes,
keyed by lock file and Dockerfile) and our code on top (about a second).
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from local_cluster.images.base import build_base
from local_cluster.images.digest import content_digest
from local_cluster.images.store import Report, Store, certificate_arguments
from local_cluster.images.tools import find_uv

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "localhost:5000"
INSTALL_SCRIPT = "local_cluster/images/install.sh"

# Tags kept in the store: the last two sets of dependencies, so that two branches do not evict
# each other, and some versions of the code, which cost next to nothing.
KEPT_DEPENDENCIES = 2
KEPT_CODE = 8


@dataclass(frozen=True)
class Product:
    """What one of our images is made of; paths are relative to the repository."""

    name: str
    dockerfile: str
    dependencies: tuple[str, ...]
    """Files that the stages up to `deps` read."""
    code: str
    """The one folder that the last stage adds."""
    space_gibibytes: float
    """Free disk that building the dependencies needs at its worst moment (measured)."""

    @property
    def repository(self) -> str:
        return f"{REGISTRY}/{self.name}"

    @property
    def dependency_repository(self) -> str:
        return f"localhost/{self.name}-deps"


OPERATOR = Product(
    name="finetune-operator",
    dockerfile="operator/Dockerfile",
    dependencies=("operator/requirements.lock", INSTALL_SCRIPT),
    code="operator/finetune_operator",
    space_gibibytes=1.5,
)
TRAINER = Product(
    name="finetune-trainer",
    dockerfile="trainer_image/Dockerfile",
    dependencies=(
        "trainer_image/requirements.lock",
        "trainer_image/portable_cxx.sh",
        "trainer_image/exports_of_transformers.py",
        INSTALL_SCRIPT,
    ),
    code="trainer_image/finetune_trainer",
    space_gibibytes=22.0,
)


def build_operator(report: Report) -> str:
    """Build what changed; returns `localhost:5000/finetune-operator:<content hash>`."""
    return _build(OPERATOR, report)


def build_trainer(report: Report) -> str:
    """Build what changed; returns `localhost:5000/finetune-trainer:<content hash>`."""
    return _build(TRAINER, report)


def _build(product: Product, report: Report) -> str:
    store = Store.from_environment()
    base = build_base(report)
    dependencies = dependency_reference(product, base)
    reference = code_reference(product, dependencies)
    if store.has(reference):
        return reference
    with store.building(report):
        if not store.has(dependencies):
            _build_dependencies(product, base, dependencies, store, report)
        if not store.has(reference):
            arguments = ["--build-arg", f"DEPS={dependencies}", "--tag", reference]
            store.build(
                product.name, [*_common(product, base), *arguments, REPOSITORY_ROOT], report
            )
            store.keep_newest(product.repository, KEPT_CODE)
    return reference


def _build_dependencies(
    product: Product, base: str, reference: str, store: Store, report: Report
) -> None:
    store.require_space(product.space_gibibytes, f"Building {product.name}")
    arguments: list[str | Path] = [
        # Layers are kept while building: after Ctrl-C the second start goes on where it was.
        *("--layers", "--target", "deps", "--tag", reference),
        *certificate_arguments(),
        *_wheel_cache(),
    ]
    name = f"{product.name} dependencies"
    store.build(name, [*_common(product, base), *arguments, REPOSITORY_ROOT], report)
    store.keep_newest(product.dependency_repository, KEPT_DEPENDENCIES)


def dependency_reference(product: Product, base: str) -> str:
    """The name of the image of everything but our code; an equal name is never built twice."""
    inputs = [REPOSITORY_ROOT / file for file in (product.dockerfile, *product.dependencies)]
    return f"{product.dependency_repository}:{content_digest([base, *inputs])}"


def code_reference(product: Product, dependencies: str) -> str:
    """The name of the finished image, which says all that it is made of."""
    return f"{product.repository}:{content_digest([dependencies, REPOSITORY_ROOT / product.code])}"


def _common(product: Product, base: str) -> list[str | Path]:
    return ["--build-arg", f"BASE={base}", "--file", REPOSITORY_ROOT / product.dockerfile]


def _wheel_cache() -> list[str]:
    """The host's uv cache, so wheels that the tests' environment has are not loaded twice."""
    uv = find_uv()
    if uv is None:
        return []
    cache = subprocess.run(
        [uv, "cache", "dir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    Path(cache).mkdir(parents=True, exist_ok=True)
    return ["--volume", f"{cache}:/wheel-cache"]
