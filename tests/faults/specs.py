"""Specs for jobs of the contract trainer (``e2e/contract_trainer.py``)."""

from __future__ import annotations

from typing import Any

QUICK = {"initial": 1, "max": 2}
UNKNOWN, LOST_PEER = 1, 74
"""Exit codes: one that the program pays for, and one that the infrastructure does."""


def failing(code: int, *, attempts: int, step: int = 6, save_every: int = 5) -> dict[str, Any]:
    """Pod 1 ends with ``code`` at ``step`` in the first attempts; checkpoints every few steps."""
    variables = {
        "TORCH_TEST_FAIL": f"1:{step}:{code}",
        "TORCH_TEST_FAIL_ATTEMPTS": str(attempts),
        "TORCH_TEST_SAVE_STEPS": str(save_every),
    }
    return {
        "workers": {"env": [{"name": name, "value": value} for name, value in variables.items()]},
        "recovery": {
            "maxRestarts": attempts + 1,
            "maxInfrastructureRestarts": attempts + 1,
            "backoffSeconds": dict(QUICK),
        },
    }
