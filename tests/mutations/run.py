"""Remove one behaviour at a time and see the named test fail.

``mutations.yaml`` lists small edits: a file, the text to take out, what to put there, and the
test that guards it. Each edit is made in a copy of the tree; the test must fail after it and pass
before, which all tests prove in one run. ``python tests/mutations/run.py [NAME…]``; exit 1 if a
mutation survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TESTS_FAILED = 1  # pytest's exit code; 2–5 mean that the tests did not run at all


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    remove: str
    test: str
    put: str = ""


def copy_tree(target: Path) -> None:
    """All files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def run_tests(tree: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    # An inherited path would show child processes the original tree; pytest finds the copy itself.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
         "--hypothesis-profile", "mutations", *tests],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=600 * len(tests),
        check=False,
    )  # fmt: skip


def verdict(tree: Path, mutation: Mutation, *, passed: bool) -> str | None:
    """None if the test notices; else what is wrong with the mutation or its test.

    ``passed``: it is known that the test passes without the mutation.
    """
    path = tree / mutation.file
    original = path.read_text()
    if original.count(mutation.remove) != 1:
        return f"{mutation.file}: the text to remove is there {original.count(mutation.remove)} ×"
    if not passed and (before := run_tests(tree, mutation.test)).returncode != 0:
        return f"{mutation.test} fails without the mutation:\n{before.stdout[-2000:]}"
    path.write_text(original.replace(mutation.remove, mutation.put))
    try:
        after = run_tests(tree, mutation.test)
    finally:
        path.write_text(original)
        # The next mutation may have the same size and come in the same second.
        Path(cache_from_source(path)).unlink(missing_ok=True)
    if after.returncode != TESTS_FAILED:
        return f"survived: {mutation.test} exits with {after.returncode}\n{after.stdout[-1500:]}"
    return None


def main(names: list[str]) -> int:
    listed = yaml.load((Path(__file__).parent / "mutations.yaml").read_text(), yaml.CSafeLoader)
    mutations = [Mutation(**entry) for entry in listed]
    if unknown := set(names) - {mutation.name for mutation in mutations}:
        print(f"no such mutation: {', '.join(sorted(unknown))}")
        return 2
    chosen = [mutation for mutation in mutations if not names or mutation.name in names]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        tests = dict.fromkeys(mutation.test for mutation in chosen)
        passed = run_tests(tree, *tests).returncode == 0  # else each is asked by itself
        for mutation in chosen:
            fault = verdict(tree, mutation, passed=passed)
            survivors += fault is not None
            print(f"{'SURVIVED' if fault else 'caught  '}  {mutation.name}", flush=True)
            if fault:
                print(f"          {fault}", flush=True)
    print(f"{survivors} mutation(s) survived" if survivors else "every mutation was caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
