"""Finding the other ranks."""

from __future__ import annotations

import socket
import time

import pytest
import torch

from finetune_trainer import gang
from finetune_trainer.errors import ConfigInvalid, Rendezvous
from finetune_trainer.rendezvous import Place, wait_for_name

ENV = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "tiny-a0-0.tiny",
    "MASTER_PORT": "29500",
}


def test_a_place_is_read_from_the_environment() -> None:
    assert Place.from_env(ENV) == Place(3, 1, 4, "tiny-a0-0.tiny", 29500)


@pytest.mark.parametrize("name", ENV)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigInvalid, match=name):
        Place.from_env({key: value for key, value in ENV.items() if key != name})


def test_a_port_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigInvalid, match="MASTER_PORT is 'x'"):
        Place.from_env({**ENV, "MASTER_PORT": "x"})


def test_trap_36_a_name_that_resolves_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [socket.gaierror("not yet"), socket.gaierror("not yet"), []]

    def look_up(*_: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    wait_for_name("tiny-a0-0.tiny", seconds=5, pause=0.01)
    assert answers == []


def test_trap_36_a_name_that_never_resolves_is_a_failed_rendezvous() -> None:
    began, place = time.monotonic(), Place(1, 1, 2, "nowhere.invalid", 29500)
    with pytest.raises(Rendezvous, match=r"nowhere\.invalid, did not resolve within 0 s"):
        gang.join(place, torch.device("cpu"), rendezvous_seconds=0.2, collective_seconds=1)
    assert time.monotonic() - began < 5
