import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import finetune_operator

CHECK = """
import gc, sys
import finetune_operator.__main__
assert gc.isenabled() and gc.get_freeze_count() > 0
print(*sorted({name.partition(".")[0] for name in sys.modules}))
from kubernetes.dynamic import DynamicClient
from kubernetes import __version__, client, config
assert client.CoreV1Api and config.load_kube_config
"""


def test_the_operator_starts_without_the_synchronous_client() -> None:
    environment = {"PYTHONPATH": str(Path(finetune_operator.__file__).parents[1])}

    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment
    )

    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert {"kubernetes", "kopf", "aiohttp"} <= set(imported)
    assert not {"requests", "oauthlib", "websocket"} & set(imported)


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_sigterm_ends_an_operator_that_is_pid_1_while_it_still_starts(tmp_path: Path) -> None:
    script = "import finetune_operator.lean_imports, pathlib, time;"
    script += "pathlib.Path('up').touch(); time.sleep(30)"
    process = subprocess.Popen(
        ["unshare", "--fork", "--pid", "--kill-child", sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(finetune_operator.__file__).parents[1]), "PATH": "/usr/bin"},
        cwd=tmp_path,
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), signal.SIGTERM)
    assert process.wait(timeout=5) == 0
