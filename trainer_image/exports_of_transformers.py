"""``exports_of_transformers.py FOLDER``: write the table of what transformers' models export.

The image is built with it, and `finetune_trainer.lean_imports` hands it to transformers, which
otherwise reads thousands of its files to make it at each import.
"""

import sys
from pathlib import Path
from pprint import pformat

from transformers.utils import import_utils

models = Path(import_utils.__file__).parents[1] / "models"
exports = import_utils.create_import_structure_from_path(str(models))
Path(sys.argv[1], "transformers_exports.py").write_text(f"EXPORTS = {pformat(exports)}\n")
