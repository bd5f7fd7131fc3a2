"""A start without the parts of the libraries that no job uses, in a process of its own."""

from pathlib import Path

import pytest
from unit.trainer.test_eager import START, run

NONE_OF_IT = """
import torch._library.utils
from finetune_trainer import unused
from finetune_trainer.deferred import DeferredModule

came = {name for name in unused.DEFERRALS if type(sys.modules.get(name)) is not DeferredModule}
came = {name for name in came if name in sys.modules}
assert not came, sorted(came)
left = {name.split(".")[2] for name in sys.modules if name.startswith("peft.tuners.")}
used = {"_buffer_dict", "lora", "lycoris_utils", "trainable_tokens", "tuners_utils"}
assert left - used - set(unused.TUNERS) == set(), "a new kind of adapter: name it in TUNERS"
assert not {name for name in sys.modules if name.partition(".")[0] == "triton"}
assert torch._library.utils.get_source is unused._place
assert torch.library.inspect.getmodule is unused._module_of
"""
WANTED = """
import os, sys
from finetune_trainer import lean_imports
lean_imports.begin()
import torch, peft, transformers
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.placement_types import Shard
from torch.distributed.checkpoint import FileSystemWriter
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import apply_tensor_parallelism
from transformers.processing_utils import Unpack
from typing import Unpack as real

assert Unpack is real
assert not isinstance(torch.ones(2), DTensor)
torch.distributed.init_process_group(
    "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
mesh = torch.distributed.init_device_mesh("cpu", (1,))
spread = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
assert isinstance(spread, DTensor)
assert isinstance(spread, torch.distributed.tensor.DTensor)
assert type(spread.placements[0]) is torch.distributed.tensor.placement_types.Shard
assert spread.full_tensor().sum() == 4
assert type(FileSystemWriter("/tmp/nowhere")).__name__ == "FileSystemWriter"
assert apply_tensor_parallelism(torch.nn.Linear(2, 2), mesh, {})
assert "colwise" in ALL_PARALLEL_STYLES

layer = torch.nn.Sequential(torch.nn.Linear(4, 4))
adapted = peft.get_peft_model(layer, peft.VeraConfig(r=2, target_modules=["0"]))
assert type(adapted.base_model).__name__ == "VeraModel"

import importlib
from finetune_trainer import deferred, unused
for name in unused.DEFERRALS:
    deferred.execute(importlib.import_module(name))
assert transformers.processing_utils.Unpack is real
"""
PLACES = """
import inspect, sys
from finetune_trainer import unused
import torch._library.utils as utils

def asks(find):
    return [find(level) for level in (1, 2)]

def caller():
    return asks(utils.get_source), asks(unused._place)

theirs, ours = caller()
assert theirs == ours, (theirs, ours)

def frames():
    return sys._getframe(), sys._getframe(1)

for frame in frames():
    assert unused._module_of(frame) is inspect.getmodule(frame) is sys.modules["places"]
assert unused._module_of(inspect.getmodule) is inspect
"""
TOO_LATE = """
import importlib, sys
from types import ModuleType
import torch
from finetune_trainer import unused

before = list(sys.meta_path)
unused.leave_out_unused()
assert sys.meta_path == before
assert type(importlib.import_module("torch.distributed.tensor")) is ModuleType
"""


@pytest.mark.timeout(300)
def test_a_start_up_to_the_first_step_needs_none_of_it() -> None:
    run(START + NONE_OF_IT)


@pytest.mark.timeout(300)
def test_whoever_wants_it_gets_it() -> None:
    run(WANTED)


@pytest.mark.timeout(300)
def test_place_and_module_of_an_operator_are_those_that_torch_finds(tmp_path: Path) -> None:
    (tmp_path / "places.py").write_text(PLACES)
    run(f"import sys; sys.path.append({str(tmp_path)!r}); import places")


def test_nothing_is_put_off_once_torch_is_there() -> None:
    run(TOO_LATE)
