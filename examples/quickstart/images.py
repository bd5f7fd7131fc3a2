"""The four images of the example, and the one that only the example has: its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

from local_cluster.images import Store
from local_cluster.images.digest import content_digest
from quickstart import dataset
from quickstart.dataset import EVAL_FILE, TRAIN_FILE
from quickstart.facts import FactBook, load_facts
from quickstart.manifests import SHORT_FACTS
from quickstart.options import DataKind, Options

DATA_REPOSITORY = "localhost:5000/finetune-data/quickstart"

Report = Callable[[str], None]


def held_out(options: Options) -> FactBook:
    """The facts that are asked for, all or a few in a short job, and in which words."""
    book = replace(load_facts(), asked=options.questions)
    return dataset.shortened(book, SHORT_FACTS) if options.short else book


def build_data(options: Options, report: Report) -> str:
    """An image that holds nothing but train.jsonl and eval.jsonl; returns its reference."""
    asked = held_out(options)
    trained = dataset.shuffled_answers(asked) if options.data is DataKind.CONTROL else asked
    store = Store.from_environment()
    rows = dataset.jsonl([*dataset.train_rows(trained), *dataset.eval_rows(asked)])
    reference = f"{DATA_REPOSITORY}:{content_digest([rows])}"
    if store.has(reference):
        return reference
    with store.building(report):
        folder = store.temporary / "data"
        dataset.write(folder, train=trained, held_out=asked)
        container = store.run("from", "scratch")
        for name in (TRAIN_FILE, EVAL_FILE):
            store.run("copy", "--quiet", "--chmod", "0444", container, folder / name, f"/{name}")
        # A fixed time: the same rows are the same image on every machine.
        store.run("commit", "--quiet", "--rm", "--timestamp", "0", container, reference)
        shutil.rmtree(folder)
    return reference
