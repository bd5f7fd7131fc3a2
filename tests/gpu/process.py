"""Jobs on a GPU run in a process of their own, once for all tests of a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def told_by(module: str, folder: Path) -> dict[str, Any]:
    """The JSON that ``python -m module folder`` writes as its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))
    return found
