"""The result and where it lies: ``status.artifact``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .schema import LIST_SET, StatusModel, list_map
from .status_types import Counter


class SmokeTest(StatusModel):
    """What the result said when export had loaded it again, before it was published."""

    prompt: Annotated[str, Field(max_length=256)] | None = None
    """The question."""
    answer: Annotated[str, Field(max_length=256)] | None = None
    """The beginning of the answer, always the likeliest token."""
    tokens: Counter | None = None
    """Tokens of it; the model stopped by itself, or at 24."""


class DestinationStatus(StatusModel):
    """A place that has the result, besides its claim."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Its name in `spec.output.destinations`."""
    uri: Annotated[str, Field(max_length=1024)] | None = None
    """As a job would take it for its model: hf://organization/name, image://repository:tag or
    s3://bucket/prefix."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """Commit of the hub, digest of the image, or of the files in the bucket: names just this
    version."""


class Artifact(StatusModel):
    """The result."""

    uri: str | None = None
    """Where it lies: pvc://claim/path."""
    path: str | None = None
    """Folder on that claim; it holds `adapter`, `merged` and `gguf`."""
    digest: str | None = None
    """Digest of its files: sha256:…"""
    bytes: Counter | None = None
    """Size."""
    step: Counter | None = None
    """Optimizer step whose weights these are."""
    formats: (
        Annotated[
            tuple[str, ...],
            Field(max_length=3, json_schema_extra=LIST_SET),
        ]
        | None
    ) = None
    """Adapter, Merged and GGUF, those that were wanted."""
    smoke_test: SmokeTest | None = None
    """A question to the result and its answer."""
    serving_path: str | None = None
    """Manifest on that claim that serves the merged model with vLLM: `kubectl apply` it. The
    ConfigMap `<name>-run` holds it, too, under the key `serving.yaml`."""
    destinations: (
        Annotated[
            tuple[DestinationStatus, ...],
            Field(max_length=4, json_schema_extra=list_map("name")),
        ]
        | None
    ) = None
    """Where it was pushed to."""
