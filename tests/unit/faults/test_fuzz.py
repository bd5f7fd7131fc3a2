"""The fuzzer: the same objects for the same seed, and strange ones."""

from __future__ import annotations

import json

from api_cases import SAMPLES, sample
from faults.fuzz import Fuzzer, schemas


def test_the_same_seed_makes_the_same_objects() -> None:
    one, other = Fuzzer(7), Fuzzer(7)
    made = [one.job(f"j{n}") for n in range(50)]
    assert made == [other.job(f"j{n}") for n in range(50)]
    assert made != [Fuzzer(8).job(f"j{n}") for n in range(50)]


def test_many_differ_from_the_samples_in_many_places() -> None:
    fuzzer, known = Fuzzer(1), [sample(name)["spec"] for name in SAMPLES]
    specs = [fuzzer.job("x")["spec"] for _ in range(600)]
    strange = {json.dumps(spec, sort_keys=True) for spec in specs if spec not in known}
    assert len(strange) > 200
    touched = {
        field
        for spec in specs
        if isinstance(spec, dict)
        for field in spec
        if all(field not in one or one[field] != spec[field] for one in known)
    }
    assert touched >= set(schemas()[0]["properties"]) - {"queue"}


def test_every_object_can_be_sent() -> None:
    fuzzer = Fuzzer(2)
    for _ in range(200):
        json.dumps([fuzzer.job("x"), fuzzer.status()], allow_nan=False)
