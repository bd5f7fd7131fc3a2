"""Where a rank stands in the gang, and waiting until the gang's meeting point has an address.

No torch here: the launcher and the first second of a rank use this module.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_trainer.errors import ConfigInvalid, Rendezvous


@dataclass(frozen=True)
class Place:
    """Position of a rank in the gang."""

    rank: int
    local_rank: int
    world_size: int
    master_addr: str
    master_port: int

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Place:
        """Read RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

        Raises ``ConfigInvalid`` with the missing or wrong variable; without this check DeepSpeed
        would go looking for MPI.
        """
        return cls(
            rank=_number(env, "RANK"),
            local_rank=_number(env, "LOCAL_RANK"),
            world_size=_number(env, "WORLD_SIZE"),
            master_addr=_text(env, "MASTER_ADDR"),
            master_port=_number(env, "MASTER_PORT"),
        )


def wait_for_name(host: str, *, seconds: float, pause: float = 0.5) -> None:
    """Return once ``host`` resolves. Raises ``Rendezvous`` after ``seconds``.

    A name that does not resolve yet is normal: the headless Service publishes rank 0's name only
    when its pod has an address. torch would look it up again as well, and at the end not tell it
    from a rank that does not come.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise Rendezvous(
                    f"the name of rank 0, {host}, did not resolve within {seconds:.0f} s: {error}",
                    hint="is the pod of rank 0 running, and does DNS answer in this namespace?",
                ) from error
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))


def _text(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise ConfigInvalid(f"the environment variable {name} is not set")
    return value


def _number(env: Mapping[str, str], name: str) -> int:
    value = _text(env, name)
    if not value.isdigit():
        raise ConfigInvalid(f"the environment variable {name} is {value!r}, not a number")
    return int(value)
