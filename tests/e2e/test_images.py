"""The built images themselves: as uid 1000, root read-only, no network, only /tmp writable.

These rules hold in every pod; here they are tried without a cluster, so a fault in an image is
not mistaken for one of the cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from local_cluster import registry
from local_cluster.images import build_base, build_model, build_operator, build_trainer, product
from local_cluster.images.model import MODEL_FILE
from local_cluster.images.store import Store
from local_cluster.layout import Cache

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="building images needs root"),
    pytest.mark.timeout(3600),
]

SITE_PACKAGES = "/opt/venv/lib/python3.11/site-packages"
PYTHON = "/opt/venv/bin/python"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

# What a kubelet gives a pod: a read-only root, /dev, /proc, an emptyDir on /tmp. The network
# namespace has a loopback and nothing else.
_POD = """
ip link set lo up
mount --bind "$1" "$1"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -o remount,bind,ro "$1"
cd "$1/tmp"
root="$1"
shift
exec chroot --userspec=1000:1000 "$root" "$@"
"""


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Image:
    """A container of the image, mounted: its files and a way to run its programs."""

    reference: str
    root: Path
    configuration: dict[str, object]

    @property
    def environment(self) -> dict[str, str]:
        lines = self.configuration["Env"]
        assert isinstance(lines, list)
        return dict(line.split("=", 1) for line in lines)

    def run(
        self, *command: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a pod would, with the image's environment and what is given."""
        variables = {**self.environment, **(environment or {})}
        settings = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            [
                *("unshare", "--mount", "--net", "sh", "-ec", _POD, "sh", str(self.root)),
                *("/usr/bin/env", "-i", *settings, *command),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def python(self, code: str, **environment: str) -> str:
        """The stdout of a Python program in the image; its stderr in the failure."""
        done = self.run(PYTHON, "-c", code, environment=environment)
        assert done.returncode == 0, f"{shlex.join(done.args[-2:])}\n{done.stderr}"
        return done.stdout


def _mounted(reference: str) -> Iterator[Image]:
    store = Store.from_environment()
    # The lock keeps a build from taking our container for the rest of a killed one.
    with store.building(_silent):
        described = json.loads(store.run("inspect", "--type", "image", reference))
        container = store.run("from", "--pull=false", reference)
        root = Path(store.run("mount", container))
        yield Image(reference, root, described["OCIv1"]["config"])
        store.run("rm", container)


@pytest.fixture
def trainer() -> Iterator[Image]:
    yield from _mounted(build_trainer(_silent))


@pytest.fixture
def operator_image() -> Iterator[Image]:
    yield from _mounted(build_operator(_silent))


def test_the_trainers_libraries_import(trainer: Image) -> None:
    out = trainer.python(
        "import os, datasets, deepspeed, peft, torch, transformers, gguf, finetune_trainer\n"
        "print(os.getuid(), os.environ['HOME'], finetune_trainer.__file__)"
    )
    assert out.splitlines()[-1] == "1000 /tmp /opt/app/finetune_trainer/__init__.py"


def test_the_cpu_operators_load_with_an_empty_path(trainer: Image) -> None:
    out = trainer.python(
        "import time\n"
        "from deepspeed.ops.op_builder.cpu import CPUAdamBuilder, ShareMemCommBuilder\n"
        "started = time.monotonic()\n"
        "for builder in (CPUAdamBuilder(), ShareMemCommBuilder()):\n"
        "    print(builder.load().__file__)\n"
        "assert time.monotonic() - started < 5",
        PATH="",
        DS_ACCELERATOR="cpu",
    )
    assert out.split() == [
        f"{SITE_PACKAGES}/deepspeed/ops/adam/cpu_adam_op.cpython-311-x86_64-linux-gnu.so",
        f"{SITE_PACKAGES}/deepspeed/ops/comm/deepspeed_shm_comm_op.cpython-311-x86_64-linux-gnu.so",
    ]


def test_weights_in_4_bits_have_a_library_for_the_images_cuda(trainer: Image) -> None:
    """And for CPUs, which export uses; those for other versions are left out."""
    out = trainer.python(
        "from pathlib import Path\n"
        "import bitsandbytes, torch\n"
        "from bitsandbytes.functional import quantize_4bit\n"
        "from finetune_trainer.quantization import unpack\n"
        "weight = torch.linspace(-1, 1, 4096).view(64, 64)\n"
        "packed = quantize_4bit(weight, compress_statistics=True, quant_type='nf4')\n"
        "print(float((unpack(*packed) - weight).abs().max()))\n"
        "cuda = torch.version.cuda.replace('.', '')\n"
        "print(Path(bitsandbytes.__file__).with_name(f'libbitsandbytes_cuda{cuda}.so').exists())\n"
        "print(len(list(Path(bitsandbytes.__file__).parent.glob('lib*'))))"
    )
    off, there, libraries = out.split()[-3:]
    assert float(off) < 0.2 and there == "True" and int(libraries) <= 4


def test_trap_34_deepspeed_trains_a_step_without_any_compiler(trainer: Image) -> None:
    # init_distributed is where DeepSpeed would build its shared-memory operator.
    out = trainer.python(
        "import deepspeed, torch\n"
        "from deepspeed.ops.adam import DeepSpeedCPUAdam\n"
        "deepspeed.init_distributed(dist_backend='gloo', verbose=False)\n"
        "weight = torch.nn.Parameter(torch.ones(8))\n"
        "optimizer = DeepSpeedCPUAdam([weight], lr=0.1)\n"
        "weight.square().sum().backward()\n"
        "optimizer.step()\n"
        "print(round(weight.mean().item(), 3))",
        PATH="",
        DS_ACCELERATOR="cpu",
        OMP_NUM_THREADS="1",
        RANK="0",
        WORLD_SIZE="1",
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",
    )
    assert out.splitlines()[-1] == "0.9"


def test_the_adam_operator_uses_avx2_and_no_more(trainer: Image) -> None:
    # It may come from a build machine with AVX-512; nodes need not have it. (The shared-memory
    # operator does hold AVX-512 kernels; it asks the CPU before it runs one.)
    library = f"{SITE_PACKAGES}/deepspeed/ops/adam/cpu_adam_op.cpython-311-x86_64-linux-gnu.so"
    # Only the registers' names are kept: the whole listing has millions of lines.
    done = trainer.run(
        "/bin/sh", "-c", f"objdump -d {library} | grep -oE '%[xyz]mm[0-9]+' | sort -u"
    )
    registers = done.stdout.split()
    assert "%ymm0" in registers, done.stderr
    assert [name for name in registers if name.startswith("%zmm")] == []


def test_triton_finds_a_c_compiler_and_pythons_headers(trainer: Image) -> None:
    out = trainer.python(
        "from triton.runtime.build import compile_module_from_src\n"
        "source = '''\n"
        "#include <Python.h>\n"
        "static PyObject *answer(PyObject *self, PyObject *none) {return PyLong_FromLong(42);}\n"
        'static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, 0}, {0}};\n'
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", 0, -1, methods};\n'
        "PyMODINIT_FUNC PyInit_probe(void) {return PyModule_Create(&module);}\n"
        "'''\n"
        "print(compile_module_from_src(source, 'probe').answer())"
    )
    assert out.splitlines()[-1] == "42"


def test_the_operators_libraries_import_and_torch_is_not_there(operator_image: Image) -> None:
    out = operator_image.python(
        "import importlib.util, kopf, kubernetes.aio, finetune_operator\n"
        "print([name for name in ('torch', 'deepspeed', 'transformers', 'finetune_trainer')\n"
        "       if importlib.util.find_spec(name)])"
    )
    assert out.splitlines()[-1] == "[]"
    size = sum(f.stat().st_blocks * 512 for f in operator_image.root.rglob("*") if f.is_file())
    assert size < 400e6


@pytest.mark.parametrize(
    ("image", "package"),
    [("trainer", "finetune_trainer"), ("operator_image", "finetune_operator")],
)
def test_an_image_is_complete_as_it_lies_there(
    image: str, package: str, request: pytest.FixtureRequest
) -> None:
    built: Image = request.getfixturevalue(image)
    assert built.configuration["User"] == "1000:1000"
    assert built.configuration["Entrypoint"] == [PYTHON, "-m", package]

    sources = sorted((built.root / "opt/app" / package).rglob("*.py"))
    assert sources
    compiled = [f.parent / "__pycache__" / f"{f.stem}.cpython-311.pyc" for f in sources]
    assert [str(f) for f in compiled if not f.exists()] == [], "would be compiled at every start"

    # Of the build: neither its certificates, nor its cache, nor its installer.
    assert "SSL_CERT_FILE" not in built.environment
    wheels = built.root / "wheel-cache"
    assert not wheels.exists() or list(wheels.iterdir()) == []
    assert list((built.root / "tmp").iterdir()) == []
    assert [str(f) for f in built.root.glob("opt/venv/bin/uv*")] == []


def test_no_certificate_of_the_build_machine_stays(trainer: Image, tmp_path: Path) -> None:
    store = Store.from_environment()
    base = store.run("from", "--pull=false", build_base(_silent))
    root = Path(store.run("mount", base))
    before, after = ((at / CERTIFICATES).read_bytes() for at in (root, trainer.root))
    store.run("rm", base)
    assert hashlib.sha256(after).digest() == hashlib.sha256(before).digest()


def test_the_model_image_holds_one_file() -> None:
    for image in _mounted(build_model(_silent)):
        assert [path.name for path in image.root.iterdir()] == [MODEL_FILE]
        with (image.root / MODEL_FILE).open("rb") as file:
            assert file.read(4) == b"GGUF"


def test_what_did_not_change_is_not_built_again() -> None:
    build_trainer(_silent)
    said: list[str] = []
    started = time.monotonic()
    build_trainer(said.append)
    assert said == []
    assert time.monotonic() - started < 5


def test_a_code_change_is_built_pushed_and_pullable_in_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, image = Cache.from_environment(), product.TRAINER
    before = build_trainer(_silent)
    registry.push(cache, before)  # dependencies and all; minutes, where they are not there yet

    for name in (image.dockerfile, *image.dependencies):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(product.REPOSITORY_ROOT / name, tmp_path / name)
    shutil.copytree(product.REPOSITORY_ROOT / image.code, tmp_path / image.code)
    (tmp_path / image.code / "changed.py").write_text(f"NOW = {time.time()}\n")
    monkeypatch.setattr(product, "REPOSITORY_ROOT", tmp_path)

    started = time.monotonic()
    after = build_trainer(_silent)
    registry.push(cache, after)
    with registry.temporary_registry(cache) as address:
        layers_after = _layers(address, after)
        seconds = time.monotonic() - started
        layers_before = _layers(address, before)

    assert layers_after[:-1] == layers_before[:-1], "a dependency layer moved"
    assert layers_after[-1] != layers_before[-1]
    print(f"built, pushed and readable after {seconds:.1f} s")
    assert seconds < 10


def _layers(address: str, image: str) -> list[str]:
    repository, tag = registry.repository_and_tag(image)
    request = urllib.request.Request(
        f"http://{address}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return [layer["digest"] for layer in json.load(response)["layers"]]
