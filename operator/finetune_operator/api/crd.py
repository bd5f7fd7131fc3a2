"""The models as a CustomResourceDefinition, and the files that are made from it.

pydantic writes JSON Schema; Kubernetes wants a *structural* schema, which knows no references, no
null and no ``additionalProperties: false``. ``structural`` turns one into the other and refuses
what it does not know, so a new kind of annotation cannot slip through half-translated.

``python -m finetune_operator.api.crd`` writes every generated file; ``--check`` only compares.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from .failure_docs import failures_markdown
from .schema import VALIDATIONS
from .spec import FineTuneJobSpec
from .status import FineTuneJobStatus
from .types import (
    CATEGORY,
    GROUP,
    KIND,
    PLURAL,
    SHORT_NAME,
    SINGULAR,
    VERSION,
    FineTuneJob,
    JobName,
)

Schema = dict[str, Any]

MAX_BYTES = 262_144
"""Client-side apply keeps the whole CRD in an annotation of at most this size."""

COPIED = {
    "type",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "default",
    "description",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    VALIDATIONS,
}
DROPPED = {"title", "readOnly", "propertyNames", "additionalProperties", "patternProperties"}
HANDLED = {"$ref", "$defs", "anyOf", "const", "properties", "items", "required"}

COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Progress", "string", ".status.progress.summary", 0),
    ("Loss", "string", ".status.metrics.loss", 0),
    ("Eval Loss", "string", ".status.metrics.evalLoss", 0),
    ("Base Loss", "string", ".status.metrics.baseline.evalLoss", 0),
    ("ETA", "string", ".status.progress.eta", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Model", "string", ".spec.model.uri", 1),
    ("Lineage", "string", ".status.lineage.summary", 1),
    ("Workers", "integer", ".status.resolved.workers", 1),
    ("Attempt", "integer", ".status.attempt", 1),
    ("Restarts", "integer", ".status.restarts.total", 1),
    ("Tokens/s", "string", ".status.progress.tokensPerSecond", 1),
    ("Reason", "string", '.status.conditions[?(@.type=="Succeeded")].reason', 1),
    ("Pending", "string", ".status.pendingReason", 1),
)
"""Name, type, path, priority (1: only with ``-o wide``)."""


def structural(schema: Schema, definitions: Schema) -> Schema:
    """One node of JSON Schema, as Kubernetes takes it. Raises ``ValueError`` on unknown words."""
    schema = _without_null(_without_reference(schema, definitions), definitions)
    if unknown := schema.keys() - COPIED - DROPPED - HANDLED:
        raise ValueError(f"no translation for {sorted(unknown)} in {schema}")
    node = {key: value for key, value in schema.items() if key in COPIED}
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if "const" in schema:
        node["enum"] = [schema["const"]]
    if node.get("default", 0) in (None, []):
        del node["default"]
    if node.get("type") == "integer":
        node["format"] = "int64" if node.get("maximum", 2**31) >= 2**31 else "int32"
    if node.get("type") == "array":
        node["items"] = _without_defaults(structural(schema["items"], definitions))
        node.setdefault("x-kubernetes-list-type", "atomic")
    if node.get("type") == "object":
        node |= _object(schema, definitions)
        if "default" in node and "properties" in node:
            node["default"] = {}  # the fields' own defaults fill it
    return node


def _without_defaults(node: Schema) -> Schema:
    """Items of lists get no defaults: the API server would write them into the list, and clients
    that compare a whole list with their manifest would see a difference for ever."""
    kept = {key: value for key, value in node.items() if key != "default"}
    if "properties" in kept:
        kept["properties"] = {k: _without_defaults(v) for k, v in kept["properties"].items()}
    return kept


def _without_reference(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    target = definitions[schema["$ref"].removeprefix("#/$defs/")]
    return _without_reference(
        {**target, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions
    )


def _without_null(schema: Schema, definitions: Schema) -> Schema:
    """An optional field is one that may be absent; null is not a value."""
    if "anyOf" not in schema:
        return schema
    branches = [branch for branch in schema["anyOf"] if branch != {"type": "null"}]
    if len(branches) != 1:
        raise ValueError(f"a choice of types is not structural: {schema}")
    outer = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**_without_reference(branches[0], definitions), **outer}


def _object(schema: Schema, definitions: Schema) -> Schema:
    if "properties" in schema:
        fields = {
            name: structural(field, definitions) for name, field in schema["properties"].items()
        }
        computed = {name for name, field in schema["properties"].items() if field.get("readOnly")}
        required = [name for name in schema.get("required", []) if name not in computed]
        return {"properties": fields, **({"required": required} if required else {})}
    keyed = schema.get("patternProperties", {})
    pattern, values = next(iter(keyed.items()), (None, schema.get("additionalProperties")))
    if not isinstance(values, dict):
        return {}
    rules = []
    if pattern:
        rules = [
            {
                "rule": f"self.all(key, key.matches(r'{pattern}'))",
                "message": "every key must be a label name such as example.com/pool",
            }
        ]
    return {
        "additionalProperties": structural(values, definitions),
        **({VALIDATIONS: rules} if rules else {}),
    }


def _part(model: type[Any]) -> Schema:
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    return structural(schema, schema.get("$defs", {}))


def _name() -> Schema:
    """Kubernetes lets a CRD narrow ``metadata.name``, and nothing else of metadata."""
    name = TypeAdapter(JobName).json_schema()
    return {"type": "string", VALIDATIONS: name[VALIDATIONS]}


def crd() -> Schema:
    """The CustomResourceDefinition of FineTuneJob."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, **({"priority": rank} if rank else {})}
        for name, kind, path, rank in COLUMNS
    ]
    root = {
        "type": "object",
        "description": " ".join((FineTuneJob.__doc__ or "").split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"type": "object", "properties": {"name": _name()}},
            "spec": _part(FineTuneJobSpec),
            "status": {**_part(FineTuneJobStatus), "default": {"observedGeneration": -1}},
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "selectableFields": [{"jsonPath": ".status.phase"}],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


HEADER = "# Generated from operator/finetune_operator/api by `make generate`. Do not edit.\n"


class _Dumper(yaml.CSafeDumper):
    """Quotes what Kubernetes' YAML would read as a number and PyYAML would not: 1e-8."""


def _string(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if text[:1].isdigit() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def _dump(document: Schema) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def crd_yaml() -> str:
    """The file in ``crds/``."""
    return HEADER + _dump(crd())


def chart_template() -> str:
    """The same CRD as a template of the chart: optional, and kept on uninstall."""
    document = crd()
    text = _dump({"spec": document.pop("spec")})
    if "{{" in text:
        raise ValueError("a description holds template braces; the chart would interpret them")
    name = document["metadata"]["name"]
    return (
        HEADER
        + "{{- if .Values.crds.enabled }}\n"
        + "apiVersion: apiextensions.k8s.io/v1\n"
        + "kind: CustomResourceDefinition\n"
        + "metadata:\n"
        + f"  name: {name}\n"
        + '  labels:\n    {{- include "finetune-operator.labels" . | nindent 4 }}\n'
        + "  {{- if .Values.crds.keep }}\n"
        + "  annotations:\n    helm.sh/resource-policy: keep\n"
        + "  {{- end }}\n"
        + text
        + "{{- end }}\n"
    )


SHARED = (
    "blinding.py",
    "failures.py",
    "redaction.py",
    "signatures/__init__.py",
    "signatures/communication.py",
    "signatures/files.py",
    "signatures/gpu.py",
    "signatures/hub.py",
    "signatures/memory.py",
    "signatures/model.py",
    "signatures/signature.py",
    "signatures/software.py",
    "signatures/table.py",
)
"""Modules that the trainer holds too, word for word: the two packages never import each other."""


def generated_files(root: Path) -> dict[Path, str]:
    """Every generated file of the repository at ``root``, with its content."""
    return {
        root / "crds" / f"{PLURAL}.{GROUP}.yaml": crd_yaml(),
        root / "helm/finetune-operator/templates/crd.yaml": chart_template(),
        root / "docs/failures.md": failures_markdown(),
        **{
            root / "trainer_image/finetune_trainer" / name: (
                f"# Generated from operator/finetune_operator/api/{name}: do not edit.\n"
                + (Path(__file__).parent / name).read_text(encoding="utf-8")
            )
            for name in SHARED
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the generated files; with ``--check``, report those that differ (exit code 1)."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune_operator.api.crd",
        description="Write every file that is generated from the API's models.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; list what differs")
    check = parser.parse_args(arguments).check
    root = Path(__file__).resolve().parents[3]
    stale = {
        path: text
        for path, text in generated_files(root).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        sys.stdout.write(f"{path.relative_to(root)}\n")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
