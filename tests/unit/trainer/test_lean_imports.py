import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer import lean_imports

MAKE = """
import runpy, sys
script, folder = sys.argv = sys.argv[1:]
made = runpy.run_path(script)["exports"]  # as transformers itself finds them
assert runpy.run_path(folder + "/transformers_exports.py")["EXPORTS"] == made
"""
COMPARE = """
import sys
from finetune_trainer import lean_imports
lean_imports.know_exports_of_transformers()
from transformers.utils import import_utils
import transformers
from transformers.models.llama import LlamaConfig

models = transformers.__path__[0] + "/models"
table = sys.modules["transformers_exports"].EXPORTS
assert import_utils.create_import_structure_from_path(models) is table
assert import_utils.create_import_structure_from_path(models + "/__init__.py") is table
scanned = import_utils.create_import_structure_from_path.__closure__
scan = next(cell.cell_contents for cell in scanned if callable(cell.cell_contents))
assert scan.cache_info().misses < 5, scan.cache_info()
print(len(table), LlamaConfig.__name__)
"""


@pytest.mark.timeout(300)
def test_the_table_says_what_transformers_itself_finds_and_saves_it_the_search(
    tmp_path: Path,
) -> None:
    folder = Path(lean_imports.__file__).parents[1]
    environment = {"PYTHONPATH": f"{folder}:{tmp_path}"}
    script = str(folder / "exports_of_transformers.py")
    subprocess.run([sys.executable, "-c", MAKE, script, tmp_path], check=True, env=environment)

    done = subprocess.run(
        [sys.executable, "-c", COMPARE], capture_output=True, text=True, env=environment
    )

    assert done.returncode == 0, done.stderr
    count, name = done.stdout.split()
    assert int(count) > 300
    assert name == "LlamaConfig"


def test_without_the_table_nothing_changes() -> None:
    before = list(sys.meta_path)

    lean_imports.know_exports_of_transformers()

    assert sys.meta_path == before
