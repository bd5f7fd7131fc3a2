"""The chart, rendered by the real helm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_cases import ROOT

from local_cluster.binaries import Binaries

CHART = ROOT / "helm" / "finetune-operator"
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm that the quickstart uses; built now if this machine has none yet."""
    binaries = Binaries()
    binaries.build(["helm"], lambda stage, detail: print(f"[{stage}] {detail}", flush=True))
    return binaries.path("helm")


@pytest.fixture(scope="session")
def render(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render with values as a nested dict; raises ``ValueError`` with helm's words.

    The same values are rendered once; tests do not change what they get.
    """
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    rendered: dict[str, list[Manifest]] = {}

    def render(
        values: dict[str, Any] | None = None, release: str = "finetune-operator"
    ) -> list[Manifest]:
        text = json.dumps([values or {}, release])
        if text in rendered:
            return rendered[text]
        path.write_text(json.dumps(values or {}))
        done = subprocess.run(
            [str(helm), "template", release, str(CHART), "--namespace", "finetune-system",
             "--values", str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ValueError(done.stderr)
        documents = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
        rendered[text] = [document for document in documents if document]
        return rendered[text]

    return render
