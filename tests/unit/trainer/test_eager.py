"""A start without torch's compiler, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer import eager

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
NONE_OF_IT = """
import sys
parts = "sympy.", "torch._dynamo.", "torch._inductor."
came = {name for name in sys.modules if name.startswith(parts)}
came -= {"torch._dynamo._trace_wrapped_higher_order_op", "torch._dynamo.config"}
assert not came, sorted(came)
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
TOO_LATE = """
import sys
import torch
from finetune_trainer import eager

before = list(sys.meta_path)
eager.leave_out_compiler()
assert sys.meta_path == before
assert torch.compile is not eager.unmarked
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


ANSWERS = """
from finetune_trainer import eager
from torch.fx.experimental import symbolic_shapes

values = {"is_nested_int": [(0,), (5,)], "sym_eq": [(3, 3), (3, 4), ((1, 2), (1, 2)), ((1,), ())]}
values |= dict.fromkeys(("sym_and", "sym_or"), [(a, b) for a in (True, False) for b in (a, not a)])
for name, answer in eager.ANSWERS.items():
    for asked in values.get(name, [(True,), (False,)]):
        assert answer(*asked) is getattr(symbolic_shapes, name)(*asked), (name, asked)
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


@pytest.mark.timeout(300)
def test_a_start_up_to_the_first_step_needs_nothing_of_the_compiler() -> None:
    run(START + NONE_OF_IT)


@pytest.mark.timeout(300)
def test_whoever_wants_the_compiler_itself_gets_it() -> None:
    run(COMPILER)


@pytest.mark.timeout(300)
def test_questions_about_symbols_are_answered_as_torch_does() -> None:
    run(ANSWERS)
    run(SYMBOLS)


def test_nothing_is_put_off_once_torch_is_there() -> None:
    run(TOO_LATE)
