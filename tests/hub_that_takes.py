"""A hub that takes commits: the endpoints that huggingface_hub uses for an upload."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]
TOKEN = "hf_key"


@dataclass
class Hub:
    """One repository, ``team/bot``; every file but weights goes with the commit itself."""

    private: bool | None = None
    """None: the repository is not there yet."""
    branches: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    """Commits of each branch: message and files."""
    stored: dict[str, bytes] = field(default_factory=dict)
    failures: int = 0
    """So many commits are answered with 503 first."""
    commits: int = 0
    loses_answers: bool = False
    """The next commit is made, and its answer is a 503."""
    may_write: bool = True
    endpoint: str = ""
    calls: list[str] = field(default_factory=list)

    def sha(self, branch: str) -> str:
        return hashlib.sha1(f"{branch}{len(self.branches[branch])}".encode()).hexdigest()

    def head(self, branch: str) -> Files:
        commits = self.branches[branch]
        return commits[-1][1] if commits else {}

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        if method == "PUT":  # a signed address: no token there
            self.stored[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        path = path.partition("?")[0]
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.private is None:
            return 404, {"error": "Repository not found"}
        if match := re.fullmatch(r"/api/models/team/bot/branch/([^/]+)", path):
            if match[1] in self.branches:
                return 409, {"error": "Reference already exists"}
            self.branches[match[1]] = list(self.branches["main"])
            return 200, {}
        if path == "/team/bot.git/info/lfs/objects/batch":
            return 200, {"transfer": "basic", "objects": list(self._batch(json.loads(body)))}
        match = re.fullmatch(r"/api/models/team/bot/(tree|preupload|commit|revision)/(\w+)", path)
        assert match is not None, path
        what, branch = match.groups()
        if what == "tree":
            return 200, [_entry(name, content) for name, content in self.head(branch).items()]
        if what == "preupload":
            return 200, {"files": [self._mode(branch, each) for each in json.loads(body)["files"]]}
        if what == "commit":
            return self._commit(branch, body)
        return 200, {"id": "team/bot", "sha": self.sha(branch)}

    def _create(self, wish: dict[str, Any]) -> tuple[int, Any]:
        if not self.may_write:
            return 403, {"error": "You don't have the rights to create a model there"}
        if self.private is not None:
            url = f"{self.endpoint}/team/bot"
            return 409, {"error": "You already created this model repo", "url": url}
        private = wish.get("private", wish.get("visibility") == "private")
        self.private, self.branches = private, {"main": []}
        return 200, {"url": f"{self.endpoint}/team/bot", "name": "team/bot"}

    def _mode(self, branch: str, wish: dict[str, Any]) -> dict[str, Any]:
        name = wish["path"]
        known = self.head(branch).get(name)
        large = name.endswith(".safetensors")
        oid = None if known is None else _sha256(known) if large else _git_oid(known)
        mode = "lfs" if large else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _batch(self, wish: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for each in wish["objects"]:
            upload = {"href": f"{self.endpoint}/storage/{each['oid']}"}
            there = each["oid"] in self.stored
            yield {**each, **({} if there else {"actions": {"upload": upload}})}

    def _commit(self, branch: str, body: bytes) -> tuple[int, Any]:
        if self.failures:
            self.failures -= 1
            return 503, {}
        header, *changes = [json.loads(line) for line in body.splitlines()]
        files = dict(self.head(branch))
        for change in changes:
            value = change["value"]
            match change["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.branches[branch].append((header["value"]["summary"], files))
        if self.loses_answers:
            self.loses_answers = False
            return 503, {}
        url = f"{self.endpoint}/team/bot/commit/{self.sha(branch)}"
        return 200, {"commitUrl": url, "commitOid": self.sha(branch)}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": _git_oid(content), "size": len(content)}


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = hub.answer(
                self.command, self.path, body, self.headers.get("Authorization")
            )
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield
    server.shutdown()
    server.server_close()
