"""Which change rebuilds what: gigabytes of dependencies, or a second of code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from local_cluster.images import product
from local_cluster.images.product import OPERATOR, TRAINER, Product

BASE = "localhost/python-base:0"


@pytest.fixture(params=[OPERATOR, TRAINER], ids=lambda image: image.name)
def image(request: pytest.FixtureRequest) -> Product:
    chosen: Product = request.param
    return chosen


@pytest.fixture
def repository(tmp_path: Path, image: Product, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (image.dockerfile, *image.dependencies):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(product.REPOSITORY_ROOT / name, tmp_path / name)
    (tmp_path / image.code).mkdir()
    (tmp_path / image.code / "__init__.py").write_text("")
    monkeypatch.setattr(product, "REPOSITORY_ROOT", tmp_path)
    return tmp_path


def _references(image: Product, base: str = BASE) -> tuple[str, str]:
    dependencies = product.dependency_reference(image, base)
    return dependencies, product.code_reference(image, dependencies)


def test_a_code_change_keeps_the_dependencies(repository: Path, image: Product) -> None:
    dependencies, code = _references(image)
    (repository / image.code / "__init__.py").write_text('"""Changed."""')
    assert _references(image)[0] == dependencies
    assert _references(image)[1] != code


def test_a_change_of_any_build_input_changes_both(repository: Path, image: Product) -> None:
    seen = {_references(image)}
    for name in (image.dockerfile, *image.dependencies):
        with (repository / name).open("a") as file:
            file.write("# changed\n")
        seen.add(_references(image))
    changes = 1 + len(image.dependencies)
    assert len({dependencies for dependencies, _ in seen}) == 1 + changes
    assert len({code for _, code in seen}) == 1 + changes


def test_another_base_changes_both(repository: Path, image: Product) -> None:
    first, other = _references(image), _references(image, "docker.io/library/python:3.11")
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_the_reference_says_where_nodes_pull_from(repository: Path, image: Product) -> None:
    assert _references(image)[1].startswith(f"localhost:5000/{image.name}:")
