"""What libraries bring and no job needs is put off until somebody asks for it. In processes of
their own; as few as there can be, since each imports torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer import eager

pytestmark = pytest.mark.timeout(300)

START = """
import os, sys, tempfile
from datetime import timedelta
from finetune_trainer import lean_imports
lean_imports.begin()
import finetune_trainer.session
from finetune_trainer.engine import init_distributed
import torch, deepspeed, peft
from transformers import AutoModelForCausalLM, LlamaConfig

os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
os.environ["MASTER_PORT"] = "0"
torch.distributed.init_process_group(
    "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
init_distributed(timedelta(seconds=60))
sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=16, **sizes))
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
model.activation_checkpointing_enable()
model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config={
    "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2},
    "zero_allow_untested_optimizer": True})
rows = torch.randint(0, 16, (1, 8))
engine.backward(engine(input_ids=rows, labels=rows).loss)
engine.step()
"""
NOTHING_OF_THE_COMPILER = """
import sys
parts = "sympy.", "torch._dynamo.", "torch._inductor."
came = {name for name in sys.modules if name.startswith(parts)}
came -= {"torch._dynamo._trace_wrapped_higher_order_op", "torch._dynamo.config"}
assert not came, sorted(came)
"""
NOTHING_UNUSED = """
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
COMPILER = """
import sys
from finetune_trainer import eager
eager.leave_out_compiler()
import torch
from transformers import AutoModelForCausalLM  # it takes names from what is put off
import transformers.masking_utils

def double(x):
    return 2 * x
assert torch.compile(double) is double
assert torch.compile(dynamic=True)(double) is double
assert torch.compiler.disable(double) is double
assert torch.compiler.disable(recursive=False)(double) is double
assert "sympy.core" not in sys.modules
compiled = torch._dynamo.optimize("eager", dynamic=True)(double)
assert compiled is not double
assert compiled(torch.ones(3)).tolist() == [2, 2, 2]
assert compiled(torch.ones(5)).sum() == 10
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "it compiled for real"
assert torch._dynamo.disable is not eager.unmarked
"""
SYMBOLS = """
import sys
from finetune_trainer import eager
eager.leave_out_compiler()
import torch
from torch.fx.experimental.symbolic_shapes import guard_or_false, sym_eq

assert sym_eq((2, 3), (2, 3)) and not guard_or_false(False)
torch.empty(3, device="meta").normal_()
assert not [name for name in sys.modules if name.startswith("sympy.")]
from torch.fx.experimental.symbolic_shapes import ShapeEnv

rows = ShapeEnv().create_unbacked_symint()
assert type(rows) is torch.SymInt
assert not guard_or_false(rows == 6)
assert sym_eq((rows, 2), (rows, 2)) and "sympy.core" in sys.modules
import sympy
assert sympy.Integer(2) + 3 == 5
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
TOO_LATE = """
import importlib, sys
from types import ModuleType
import torch
from finetune_trainer import eager, unused

before = list(sys.meta_path)
eager.leave_out_compiler()
unused.leave_out_unused()
assert sys.meta_path == before
assert torch.compile is not eager.unmarked
assert type(importlib.import_module("torch.distributed.tensor")) is ModuleType
"""
ANSWERS = """
from finetune_trainer import eager
from torch.fx.experimental import symbolic_shapes

values = {"is_nested_int": [(0,), (5,)], "sym_eq": [(3, 3), (3, 4), ((1, 2), (1, 2)), ((1,), ())]}
values |= dict.fromkeys(("sym_and", "sym_or"), [(a, b) for a in (True, False) for b in (a, not a)])
for name, answer in eager.ANSWERS.items():
    for asked in values.get(name, [(True,), (False,)]):
        assert answer(*asked) is getattr(symbolic_shapes, name)(*asked), (name, asked)
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


def run(script: str) -> None:
    folder = Path(eager.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_start_up_to_the_first_step_needs_none_of_it() -> None:
    run(START + NOTHING_OF_THE_COMPILER + NOTHING_UNUSED)


def test_whoever_wants_the_compiler_itself_gets_it() -> None:
    run(COMPILER)


def test_symbols_are_there_for_whoever_asks() -> None:
    run(SYMBOLS)


def test_whoever_wants_the_unused_gets_it() -> None:
    run(WANTED)


def test_nothing_is_put_off_once_torch_is_there_and_our_answers_are_those_of_torch(
    tmp_path: Path,
) -> None:
    (tmp_path / "places.py").write_text(PLACES)
    run(TOO_LATE + ANSWERS + f"sys.path.append({str(tmp_path)!r}); import places")
