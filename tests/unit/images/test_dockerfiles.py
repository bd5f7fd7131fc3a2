"""What can be said of the images without building them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = {
    "operator": ROOT / "operator/Dockerfile",
    "trainer": ROOT / "trainer_image/Dockerfile",
}
LOCKS = [
    ROOT / "operator/requirements.lock",
    ROOT / "trainer_image/requirements.lock",
    ROOT / "local_cluster/requirements.lock",
    ROOT / "local_cluster/bootstrap.lock",
    ROOT / "local_cluster/toolchain.lock",
    ROOT / "tests/requirements.lock",
    ROOT / "examples/quickstart/requirements.lock",
]


def _requirements(lock: Path) -> list[str]:
    """One string for each requirement, its hashes included."""
    text = re.sub(r"^\s*#.*$", "", lock.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


@pytest.fixture(params=sorted(DOCKERFILES))
def dockerfile(request: pytest.FixtureRequest) -> str:
    return DOCKERFILES[request.param].read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_every_package_is_pinned_by_version_and_hash(lock: Path) -> None:
    requirements = _requirements(lock)
    assert requirements
    pinned = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+.*--hash=sha256:[0-9a-f]{64}")
    unpinned = [line[:60] for line in requirements if not pinned.match(line)]
    assert unpinned == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_no_lock_names_a_place_to_load_from(lock: Path) -> None:
    assert re.findall(r"https?://|--index-url|--find-links", lock.read_text()) == []


def test_torch_never_enters_the_operator_image() -> None:
    names = {line.split("==")[0] for line in _requirements(ROOT / "operator/requirements.lock")}
    assert "kopf" in names
    assert {name for name in names if re.match(r"torch|triton|nvidia|deepspeed", name)} == set()


def test_every_stage_comes_from_the_base_or_from_another_stage(dockerfile: str) -> None:
    sources = re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile, re.MULTILINE)
    stages = {name for _, name in sources}
    assert sources
    assert {source for source, _ in sources} - stages <= {"${BASE}", "${DEPS}"}


def test_the_base_has_a_public_default(dockerfile: str) -> None:
    assert "ARG BASE=docker.io/library/python:3.11-slim-bookworm\n" in dockerfile


def test_the_last_stage_adds_only_our_code(dockerfile: str) -> None:
    last = dockerfile[dockerfile.index("FROM ${DEPS} AS final") :]
    assert re.findall(r"^(?:COPY|ADD|RUN).*$", last, re.MULTILINE) == [
        "COPY --from=code /opt/app /opt/app"
    ]


def test_the_image_runs_as_a_numeric_user(dockerfile: str) -> None:
    # The kubelet cannot check runAsNonRoot against a name.
    users = re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)
    assert users == ["1000:1000"]


def test_images_and_bootstrap_use_the_same_installer() -> None:
    script = (ROOT / "local_cluster/images/install.sh").read_text()
    pin = re.search(r'^UV="(uv==\S+) --hash=(sha256:[0-9a-f]{64})"$', script, re.MULTILINE)
    assert pin is not None
    (requirement,) = _requirements(ROOT / "local_cluster/bootstrap.lock")
    assert requirement.startswith(f"{pin[1]} ")
    assert pin[2] in requirement


def test_the_build_context_holds_what_the_dockerfiles_copy_and_nothing_else() -> None:
    copied = {
        source
        for path in DOCKERFILES.values()
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE)
        for source in sources.split()
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied
