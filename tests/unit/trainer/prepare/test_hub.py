"""Fetching from a hub: against a server that speaks the endpoints which huggingface_hub uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tiny_models import save_tiny_model

from finetune_trainer.config import DataSource, HubRef, ModelSource
from finetune_trainer.errors import BadData, ModelLoad
from finetune_trainer.prepare.hub import HubError, fetch
from finetune_trainer.prepare.licence import read_card
from finetune_trainer.prepare.model import prepare_model
from finetune_trainer.prepare.sources import locate

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Repositories by ``models/<name>`` or ``datasets/<name>``: folder on disk."""

    repositories: dict[str, Path] = field(default_factory=dict)
    token: str | None = None
    """Demanded of every caller."""
    failures: int = 0
    """So many requests are answered with 503 first."""
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(path)
        if self.failures:
            self.failures -= 1
            return 503, {}, b""
        if self.token is not None and token != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if path.startswith("/api/"):
            name, _, revision = path.removeprefix("/api/").partition("/revision/")
            if name not in self.repositories:
                return 404, {"X-Error-Code": "RepoNotFound"}, b""
            if revision.partition("?")[0] not in ("main", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return 200, {}, json.dumps(self._info(name)).encode()
        name, _, rest = path.lstrip("/").partition("/resolve/")
        name = name if name.startswith("datasets/") else f"models/{name}"
        commit, _, file = rest.partition("/")
        content = (self.repositories[name] / file).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, content

    def _info(self, name: str) -> dict[str, Any]:
        folder = self.repositories[name]
        files = [p for p in folder.rglob("*") if p.is_file()]
        siblings = [
            {"rfilename": str(p.relative_to(folder)), "size": p.stat().st_size} for p in files
        ]
        card = read_card(folder)
        told = {"cardData": card} if card else {}
        return {"id": name.partition("/")[2], "sha": COMMIT, "siblings": siblings, **told}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = hub.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield hub
    server.shutdown()
    server.server_close()


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


REF = HubRef(repository="team/thing")


def everything(names: list[str], _: object) -> list[str]:
    return names


def test_a_model_comes_from_one_commit_and_leaves_pickles_behind(hub: Hub, tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "repository")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    (source / "README.md").write_text("hello")
    hub.repositories["models/team/thing"] = source
    manifest = prepare_model(ModelSource(hub=REF), tmp_path / "ws")
    assert manifest["commit"] == COMMIT
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= manifest["files"].keys()
    assert not any("pytorch_model.bin" in path for path in hub.requests)
    assert all(f"/resolve/{COMMIT}/" in p for p in hub.requests if "/resolve/" in p)


def test_a_repository_with_pickles_alone_is_refused(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/pytorch_model.bin").write_bytes(b"pickle")
    hub.repositories["models/team/thing"] = tmp_path / "repository"
    with pytest.raises(ModelLoad, match=r"spec\.model\.uri: the weights are pickled"):
        prepare_model(ModelSource(hub=REF), tmp_path / "ws")
    assert not any("/resolve/" in path for path in hub.requests)


def test_a_dataset_gives_the_files_of_its_train_split(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    for name in ("train.jsonl", "test.jsonl", "README.md"):
        (tmp_path / "repository" / name).write_text('{"text": "a"}\n')
    hub.repositories["datasets/team/thing"] = tmp_path / "repository"
    source = DataSource(name="facts", field="spec.data.train[0]", hub=REF)
    located = locate(source, tmp_path / "scratch", 10**6)
    assert [(file.name, file.path.read_text()) for file in located.files] == [
        ("train.jsonl", '{"text": "a"}\n')
    ]
    assert located.commit == COMMIT


@pytest.mark.parametrize(
    ("side", "folder", "chosen"),
    [
        ("train", "all", ["all/train-0.jsonl"]),
        ("eval", "all", ["all/test-0.jsonl"]),
        ("train", "test", ["test/0.jsonl", "test/1.jsonl"]),
    ],
)
def test_of_a_folder_of_a_dataset_that_is_named_only_one_side_is_read(
    hub: Hub, tmp_path: Path, side: str, folder: str, chosen: list[str]
) -> None:
    for name in ("all/train-0", "all/test-0", "other/train-0", "test/0", "test/1"):
        path = tmp_path / "repository" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "a"}\n')
    hub.repositories["datasets/team/thing"] = tmp_path / "repository"
    source = DataSource(name="facts", field=f"spec.data.{side}[0]", hub=REF, file=folder)
    located = locate(source, tmp_path / "scratch", 10**6)
    assert [file.name for file in located.files] == chosen


def test_a_config_and_a_split_are_chosen_as_users_of_datasets_name_them(
    hub: Hub, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    for name in ("small/train-0", "small/test-0", "large/train_sft-0", "large/train_gen-0"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / f"{name}.jsonl").write_text('{"text": "a"}\n')
    (repository / "README.md").write_text(TWO_CONFIGS)
    hub.repositories["datasets/team/thing"] = repository
    source = DataSource(name="facts", field="spec.data.train[0]", hub=REF)
    with pytest.raises(BadData) as caught:
        locate(source, tmp_path / "scratch", 10**6)
    assert caught.value.message == (
        "spec.data.train[0].config: team/thing has 2 configs and none is the default"
    )
    assert caught.value.hint == "name one of small, large"
    assert not any("/resolve/" in path for path in hub.requests)

    large = source.model_copy(update={"config": "large", "split": "train_sft"})
    located = locate(large, tmp_path / "scratch", 10**6)
    assert [file.name for file in located.files] == ["large/train_sft-0.jsonl"]
    assert (located.commit, located.licence) == (COMMIT, "mit")


TWO_CONFIGS = """---
license: mit
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train-*}
  - {split: test, path: small/test-*}
- config_name: large
  data_files:
  - {split: train_sft, path: large/train_sft-*}
  - {split: train_gen, path: large/train_gen-*}
---
Rows.
"""


def test_a_dataset_above_the_limit_is_refused_before_it_is_fetched(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/train.jsonl").write_text("x" * 100)
    hub.repositories["datasets/team/thing"] = tmp_path / "repository"
    source = DataSource(name="facts", field="spec.data.train[0]", hub=REF)
    with pytest.raises(BadData, match=r"train\[0\].uri: team/thing holds 100 bytes"):
        locate(source, tmp_path / "scratch", 99)
    assert not any("/resolve/" in path for path in hub.requests)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (HubRef(repository="team/other"), "team/other does not exist on"),
        (HubRef(repository="team/thing", revision="v9"), "team/thing has no revision v9"),
        (HubRef(repository="a/b/c"), "a/b/c"),
    ],
)
def test_what_does_not_exist_is_said_at_once(
    hub: Hub, tmp_path: Path, reference: HubRef, says: str
) -> None:
    (tmp_path / "repository").mkdir()
    hub.repositories["models/team/thing"] = tmp_path / "repository"
    with pytest.raises(HubError, match=says):
        fetch(reference, "model", everything, tmp_path / "out", pause_seconds=0)


def test_the_mounted_token_opens_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/a.txt").write_text("secret")
    hub.repositories["models/team/thing"] = tmp_path / "repository"
    hub.token = "hf_key"
    with pytest.raises(HubError, match="or is private") as caught:
        fetch(REF, "model", everything, tmp_path / "out", pause_seconds=0)
    assert "spec.model.secretRef" in str(caught.value.hint)
    (tmp_path / "token").write_text("hf_key\n")
    fetched = fetch(REF, "model", everything, tmp_path / "out", pause_seconds=0)
    assert (fetched.folder / "a.txt").read_text() == "secret"


def test_a_busy_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/a.txt").write_text("a")
    hub.repositories["models/team/thing"] = tmp_path / "repository"
    hub.failures = 2
    assert fetch(REF, "model", everything, tmp_path / "out", pause_seconds=0).files == ["a.txt"]


def test_a_hub_that_stays_silent_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(HubError, match=r"cannot be reached for team/thing \(tried 4 times\)"):
        fetch(REF, "model", everything, tmp_path / "out", pause_seconds=0)
