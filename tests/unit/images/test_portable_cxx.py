"""The compiler wrapper: what an image is built with must not depend on the build machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

WRAPPER = Path(__file__).resolve().parents[3] / "trainer_image/portable_cxx.sh"


@pytest.mark.parametrize(
    ("given", "compiled_with"),
    [
        pytest.param("-march=native", "-march=x86-64-v3", id="the machine becomes the promise"),
        pytest.param("-D__AVX512__", "-D__AVX256__", id="AVX-512 is not promised"),
        pytest.param("-D__SCALAR__", "-D__AVX256__", id="AVX2 is promised"),
        pytest.param("-march=x86-64", "-march=x86-64", id="another machine stays"),
        pytest.param("-DNAME=a b", "-DNAME=a b", id="spaces stay in one argument"),
    ],
)
def test_the_wrapper_compiles_for_every_machine(
    tmp_path: Path, given: str, compiled_with: str
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    compiler.chmod(0o755)
    done = subprocess.run(
        ["sh", WRAPPER, "-c", given, "file.cpp"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["-c", compiled_with, "file.cpp"]
