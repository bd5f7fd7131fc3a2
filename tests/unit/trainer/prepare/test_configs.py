"""Which files a config and a split of a dataset are: those that the datasets library would load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset_builder

from finetune_trainer.config import DataSource, HubRef
from finetune_trainer.errors import BadData
from finetune_trainer.prepare.configs import config_files

SPLITS = {
    "config_name": "default",
    "data_files": [
        {"split": "train", "path": ["data/train-*", "more/*.jsonl"]},
        {"split": "test", "path": "data/test-*"},
    ],
}
EN = {"config_name": "en", "data_files": "en/**/*.jsonl"}
DE = {"config_name": "de", "data_dir": "de", "data_files": [{"split": "train", "path": "*.jsonl"}]}
FR = {"config_name": "fr", "data_dir": "fr"}
HELD = {"config_name": "held", "data_files": [{"split": "dev", "path": "data/test-0.jsonl"}]}
NAMES = [
    "data/train-0.jsonl",
    "data/train-1.jsonl",
    "data/train/2.jsonl",
    "data/test-0.jsonl",
    "data/.train-3.jsonl",
    "more/a.jsonl",
    "more/deep/b.jsonl",
    "en/a.jsonl",
    "en/deep/b.jsonl",
    "de/a.jsonl",
    "de/deep/b.jsonl",
    "fr/train.jsonl",
    "fr/test.jsonl",
]


def chosen(card: Any, side: str = "train", names: list[str] = NAMES, **wish: str) -> list[str]:
    reference = HubRef(repository="team/thing")
    source = DataSource(name="a", field=f"spec.data.{side}[0]", hub=reference, **wish)  # type: ignore[arg-type]
    return config_files(source, names, card)


@pytest.mark.parametrize(
    ("configs", "name", "split"),
    [
        ([SPLITS], None, "train"),
        ([SPLITS], None, "test"),
        ([EN, SPLITS], None, "train"),
        ([EN, {**DE, "default": True}], None, "train"),
        ([EN, DE], "en", "train"),
        ([EN, DE], "de", "train"),
        ([EN, FR], "fr", "train"),
        ([EN, FR], "fr", "test"),
        ([], None, "train"),
    ],
)
def test_the_files_are_those_of_the_datasets_library(
    tmp_path: Path, configs: list[Any], name: str | None, split: str
) -> None:
    names = [each for each in NAMES if configs or each.startswith("fr/")]
    for each in names:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_text('{"text": "a"}\n')
    card = {"configs": configs} if configs else {}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    builder = load_dataset_builder(str(tmp_path), name, cache_dir=str(tmp_path / "cache"))
    loaded = [str(Path(each).relative_to(tmp_path)) for each in builder.config.data_files[split]]
    wish = {"split": split, **({"config": name} if name else {})}
    assert chosen(card, names=names, **wish) == sorted(loaded)


@pytest.mark.parametrize(
    ("card", "side", "files"),
    [
        ([SPLITS], "train", ["data/train-0.jsonl", "data/train-1.jsonl", "more/a.jsonl"]),
        ([SPLITS], "eval", ["data/test-0.jsonl"]),
        ([SPLITS, HELD], "general", ["data/test-0.jsonl"]),
        ([EN], "train", ["en/a.jsonl", "en/deep/b.jsonl"]),
        ([EN], "eval", ["en/a.jsonl", "en/deep/b.jsonl"]),
        ([HELD], "train", ["data/test-0.jsonl"]),
        ([FR], "eval", ["fr/test.jsonl"]),
    ],
)
def test_where_no_split_is_named_it_is_that_of_the_side_or_the_only_one(
    card: list[Any], side: str, files: list[str]
) -> None:
    assert chosen({"configs": card}, side) == files


def test_without_configs_the_names_of_files_tell_the_split() -> None:
    names = ["train_sft-0.parquet", "train_gen-0.parquet", "test.csv", "training.csv"]
    assert chosen({}, names=names, split="train_sft") == ["train_sft-0.parquet"]
    assert chosen({}, names=names, split="test") == ["test.csv"]
    assert chosen({}, names=names, config="default", split="test") == ["test.csv"]


URL = {"config_name": "a", "data_files": "hf://datasets/other/thing/*.jsonl"}
TEXT = {"config_name": "a", "data_files": "data/*.txt"}
ODD = {"config_name": "a", "data_files": "data/**.jsonl"}
GEN = [{"split": "train_sft", "path": "a"}, {"split": "train_gen", "path": "b"}]


@pytest.mark.parametrize(
    ("configs", "wish", "says", "hint"),
    [
        ([EN, DE], {}, "config: team/thing has 2 configs and none", "name one of en, de"),
        ([EN, DE], {"config": "es"}, "config: team/thing has no config 'es'", "are en, de"),
        ([], {"config": "en"}, "config: team/thing declares no configs", "remove config"),
        ([SPLITS], {"split": "dev"}, "split: config default of team/thing", "are train, test"),
        (
            [{"config_name": "x", "data_files": GEN}],
            {},
            "split: config x of team/thing has no split train",
            "name one of train_sft, train_gen",
        ),
        ([], {"split": "dev"}, "split: no data file of team/thing is named after", "it has"),
        ([URL], {}, "config: split train of a has no data file", "hf://datasets/other"),
        ([TEXT], {}, "config: split train of a has no data file", "data/*.txt"),
        ([ODD], {}, "uri: the README.md of team/thing declares configs", "the field file"),
        (["a"], {}, "uri: the README.md of team/thing declares configs", "the field file"),
        ({"a": 1}, {}, "uri: the README.md of team/thing declares configs", "the field file"),
        ([{"data_files": "a"}], {}, "uri: the README.md of team/thing declares", "file"),
        (
            [{"config_name": "a", "data_files": [{"split": "train"}]}],
            {},
            "uri: the README.md of team/thing declares configs",
            "the field file",
        ),
    ],
)
def test_what_cannot_be_chosen_is_said_with_what_there_is(
    configs: Any, wish: dict[str, str], says: str, hint: str
) -> None:
    with pytest.raises(BadData) as caught:
        chosen({"configs": configs}, **wish)
    assert caught.value.message.startswith(f"spec.data.train[0].{says}")
    assert hint in str(caught.value.hint)
