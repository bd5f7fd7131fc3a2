"""docs/watching.md names what there is to watch: every condition and metric, and no other."""

from __future__ import annotations

import re

from api_cases import ROOT
from prometheus_client import Counter
from prometheus_client.metrics_core import Metric

from finetune_operator.__main__ import _gauges
from finetune_operator.api.conditions import ConditionType
from finetune_operator.engine.queue import WorkQueue
from finetune_operator.gather import Stores
from finetune_operator.metrics import operator_metrics
from finetune_trainer.metrics import METRICS, PREFIX

TEXT = (ROOT / "docs" / "watching.md").read_text()


def told(pattern: str) -> list[str]:
    """What the first cells of the tables name."""
    return sorted(re.findall(rf"^\| `({pattern})`", TEXT, re.MULTILINE))


def exported(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_every_condition_is_named() -> None:
    assert told("[A-Z][A-Za-z]+") == sorted(kind.value for kind in ConditionType)


def test_every_metric_of_the_training_pods_is_named() -> None:
    names = [f"{m.name}_total" if m.kind is Counter else m.name for m in METRICS]
    assert told("finetune_train_[a-z_]+") == sorted(PREFIX + name for name in names)


async def test_every_metric_of_the_operator_is_named() -> None:
    gauges = _gauges(Stores(), WorkQueue())
    families = operator_metrics(tuple, gauges, 1).registry.collect()
    names = [exported(each) for each in families if each.name.startswith("finetune_")]
    assert told("finetune_(?:job|operator)_[a-z_]+") == sorted(names)
