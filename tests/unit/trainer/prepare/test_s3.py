"""Rows and models out of a bucket: from a real S3 server on loopback."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from s3_server import ACCESS, SECRET, S3Server, s3_server, write_login
from tiny_models import save_tiny_model

from finetune_trainer import object_store
from finetune_trainer.config import DataSource, ModelSource, RunConfig, S3Place
from finetune_trainer.errors import BadData, ModelLoad
from finetune_trainer.object_store import BucketError
from finetune_trainer.prepare import s3, stage
from finetune_trainer.prepare.model import prepare_model
from finetune_trainer.prepare.sources import locate

LIMIT = 2**30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PAUSE", timedelta(milliseconds=1))


def put(server: S3Server, uri: str, content: bytes) -> None:
    """``bucket/key``, by the server."""
    bucket, _, key = uri.partition("/")
    (server.root / bucket).mkdir(exist_ok=True)
    connected = object_store.connect(S3Place.model_validate(server.place(bucket)), "write")
    connected.store.put(key, content)


def source(place: dict[str, Any], **other: Any) -> DataSource:
    return DataSource.model_validate(
        {"name": "rows", "field": "spec.data.train[0]", "s3": place, **other}
    )


def names(server: S3Server, tmp_path: Path, key: str, **other: Any) -> list[str]:
    """Of the files that a source is, which hold what the objects hold."""
    located = locate(source(server.place("rows", key), **other), tmp_path / "scratch", LIMIT)
    for file in located.files:
        assert file.path.read_bytes() == b'{"text": "%s"}' % file.name.rpartition("/")[2].encode()
    return [file.name for file in located.files]


@pytest.fixture(scope="module")
def rows(server: S3Server) -> None:
    for key in ("a.jsonl", "day=1/b.jsonl", "day=1/deep/c.jsonl", "split/train.jsonl",
                "split/test.jsonl", "split/README.md"):  # fmt: skip
        put(server, f"rows/{key}", b'{"text": "%s"}' % key.rpartition("/")[2].encode())


@pytest.mark.parametrize(
    ("key", "file", "found"),
    [
        ("a.jsonl", None, ["a.jsonl"]),
        ("day=1", None, ["b.jsonl", "deep/c.jsonl"]),
        ("split", None, ["train.jsonl"]),
        ("split", "test.jsonl", ["test.jsonl"]),
        ("", "day=1", ["day=1/b.jsonl", "day=1/deep/c.jsonl"]),
        ("", "split", ["split/train.jsonl"]),
    ],
)
def test_a_source_is_an_object_or_those_below_a_prefix(
    server: S3Server, rows: None, tmp_path: Path, key: str, file: str | None, found: list[str]
) -> None:
    assert names(server, tmp_path, key, file=file) == found


def test_a_large_object_arrives_whole(server: S3Server, tmp_path: Path) -> None:
    content = os.urandom(40 * 2**20 + 7)  # three pieces
    put(server, "large/of/it.bin", content)
    fetched = s3.fetch(S3Place.model_validate(server.place("large", "of/it.bin")), list, tmp_path)
    assert (fetched.folder / fetched.files[0]).read_bytes() == content


def test_an_object_that_changes_meanwhile_is_refused(server: S3Server, tmp_path: Path) -> None:
    put(server, "moving/rows/a.jsonl", b'{"text": "old"}')

    def choose(names: list[str]) -> list[str]:
        put(server, "moving/rows/a.jsonl", b'{"text": "new"}')
        return names

    with pytest.raises(BucketError, match=r"rows.a.jsonl changed while"):
        s3.fetch(S3Place.model_validate(server.place("moving", "rows")), choose, tmp_path)


def test_what_is_too_large_is_refused_before_it_is_loaded(
    server: S3Server, rows: None, tmp_path: Path
) -> None:
    with pytest.raises(BadData) as caught:
        locate(source(server.place("rows", "day=1")), tmp_path / "s", 20)
    assert caught.value.message == (
        "spec.data.train[0].uri: s3://rows/day=1 holds 38 bytes of data, more than the limit of 20"
    )
    assert not (tmp_path / "s").exists()


def refused(place: dict[str, Any], tmp_path: Path) -> str:
    with pytest.raises(BadData) as caught:
        locate(source(place), tmp_path / "scratch", LIMIT)
    return f"{caught.value.message}; {caught.value.hint}"


def test_each_fault_of_an_address_or_a_key_has_its_sentence(
    server: S3Server, rows: None, tmp_path: Path
) -> None:
    place, at = server.place("rows", "day=1"), server.endpoint
    assert refused(server.place("none", "x"), tmp_path) == (
        f"spec.data.train[0].uri: there is no bucket none at {at}; check its name, and s3.endpoint"
    )
    assert refused(server.place("rows", "no"), tmp_path) == (
        "spec.data.train[0].uri: there is nothing at s3://rows/no; check the key (an object, or "
        "what comes before the '/' of several), and that s3.endpoint is the S3 API and no web page"
    )
    unsigned = {**place, "loginPath": None}
    assert refused(unsigned, tmp_path) == (
        f"spec.data.train[0].uri: access to s3://rows at {at} is denied (AccessDenied); name a "
        "Secret in s3.secretRef for s3:ListBucket on the bucket and s3:GetObject"
    )
    for key, secret, code in (
        ("AKIANOBODY", SECRET, "XAdminUserNotFound"),  # InvalidAccessKeyId at Amazon
        (ACCESS, "wrong", "SignatureDoesNotMatch"),
    ):
        login = write_login(tmp_path / code, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)
        said = refused({**place, "loginPath": str(login)}, tmp_path)
        assert f"{at} does not take this access key ({code}); check AWS_ACCESS_KEY_ID" in said
        assert secret not in said and key not in said


def test_an_endpoint_that_is_not_there_is_told_from_one_that_is_none(
    server: S3Server, tmp_path: Path
) -> None:
    closed = {**server.place("rows"), "endpoint": "http://127.0.0.1:1"}
    said = refused(closed, tmp_path)
    assert "http://127.0.0.1:1 cannot be reached (tried 4 times): tcp connect error" in said
    assert "Connection refused; check s3.endpoint" in said
    unknown = {**server.place("rows"), "endpoint": "http://nowhere.invalid"}
    assert "http://nowhere.invalid cannot be reached (tried 4 times): dns error" in refused(
        unknown, tmp_path
    )
    with web_page() as address:
        page = {**server.place("rows", "a.jsonl"), "endpoint": address}
        assert f"{address} does not answer as S3 does" in refused(page, tmp_path)
        page["key"] = ""
        assert "that s3.endpoint is the S3 API and no web page" in refused(page, tmp_path)


@contextmanager
def web_page() -> Iterator[str]:
    """A server that answers everything with a page, as consoles of stores do."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(b"<!doctype html><title>Console</title>")

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as running:
        threading.Thread(target=running.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_secret_without_a_key_is_told(server: S3Server, tmp_path: Path, missing: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, missing: ""}
    place = {**server.place("rows"), "loginPath": str(write_login(tmp_path / "login", **keys))}
    assert f"the Secret of s3.secretRef has no {missing}" in refused(place, tmp_path)
    place["loginPath"] = str(tmp_path / "nowhere")
    assert "the Secret of s3.secretRef cannot be read" in refused(place, tmp_path)


def test_the_secret_may_say_where_the_bucket_is(
    server: S3Server, rows: None, tmp_path: Path
) -> None:
    login = write_login(
        tmp_path / "login",
        AWS_ACCESS_KEY_ID=ACCESS,
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_ENDPOINT_URL=server.endpoint,
        AWS_REGION="us-east-1",
    )
    place = {"bucket": "rows", "key": "a.jsonl", "loginPath": str(login)}
    located = locate(source(place), tmp_path / "scratch", LIMIT)
    assert [file.name for file in located.files] == ["a.jsonl"]
    wrong = {**place, "endpoint": server.endpoint, "region": "eu-west-1"}
    said = refused(wrong, tmp_path)
    assert "the bucket rows is in another region (AuthorizationHeaderMalformed)" in said
    assert said.endswith("; set s3.region to us-east-1")


@pytest.fixture(scope="module")
def model(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("model"))
    for path in folder.iterdir():
        put(server, f"models/tiny/{path.name}", path.read_bytes())
    return folder


def test_a_job_takes_model_and_rows_from_buckets(
    server: S3Server, model: Path, tmp_path: Path
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n}?"},
                      {"role": "assistant", "content": "A gang."}]}
        for n in range(20)
    ]  # fmt: skip
    put(server, "rows/chats/train.jsonl", "\n".join(map(json.dumps, rows)).encode())
    config = RunConfig.model_validate(
        {
            "job": {"namespace": "team", "name": "bot", "uid": "u1"},
            "model": {"s3": server.place("models", "tiny")},
            "data": {
                "train": [source(server.place("rows", "chats")).model_dump(by_alias=True)],
                "sequenceLength": 64,
            },
            "method": {"lora": {}},
            "training": {
                "epochs": 1, "microBatchSize": 2, "accumulation": 1, "learningRate": 0.001
            },
            "zeroStage": 2,
            "workers": {"count": 1, "ranksPerWorker": 1, "device": "CPU"},
        }
    )  # fmt: skip
    told = stage.run(config, tmp_path / "ws")
    assert told["data"]["rows"] == 20
    weights = "model.safetensors"
    assert (tmp_path / "ws/model" / weights).read_bytes() == (model / weights).read_bytes()
    manifest = json.loads((tmp_path / "ws/model/manifest.json").read_text())
    assert manifest["source"] == "s3://models/tiny"
    assert sorted(path.name for path in (tmp_path / "ws").iterdir()) == ["data", "model", "stages"]


def test_a_model_whose_push_broke_off_is_not_taken(
    server: S3Server, model: Path, tmp_path: Path
) -> None:
    for path in model.iterdir():
        put(server, f"models/half/{path.name}", path.read_bytes())
    put(server, "models/half/manifest.json", json.dumps({"unfinished": True, "files": {}}).encode())
    half = ModelSource.model_validate({"s3": server.place("models", "half")})
    with pytest.raises(ModelLoad, match=r"s3:..models.half is not whole: a push goes on or broke"):
        prepare_model(half, tmp_path / "ws")
    shutil.rmtree(tmp_path / "ws")
    with pytest.raises(ModelLoad, match=r"spec.model.uri: there is no bucket nothing"):
        prepare_model(ModelSource.model_validate({"s3": server.place("nothing")}), tmp_path / "ws")
