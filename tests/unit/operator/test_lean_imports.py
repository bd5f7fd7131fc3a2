import subprocess
import sys
from pathlib import Path

import finetune_operator

CHECK = """
import gc, sys
import finetune_operator.__main__
assert gc.isenabled() and gc.get_freeze_count() > 0
print(*sorted({name.partition(".")[0] for name in sys.modules}))
from kubernetes import client, config
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
