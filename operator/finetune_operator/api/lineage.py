"""What a result was made from: its ancestors, and the lock by which it could be made again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, computed_field

from .schema import StatusModel

MAX_ANCESTORS = 16
Digest = Annotated[str, Field(max_length=128)]


class Ancestor(StatusModel):
    """A FineTuneJob whose weights this job went on from."""

    job: Annotated[str, Field(max_length=253)]
    """Its name, in the namespace of this job."""
    uid: Annotated[str | None, Field(max_length=64)] = None
    """Its UID: another job may bear the name by now."""
    step: Annotated[int | None, Field(ge=0)] = None
    """Optimizer step whose weights were taken."""
    artifact: Digest | None = None
    """Digest of what it published, where the weights were taken from that: sha256:…"""
    data: Digest | None = None
    """Digest of the data that it was trained on: sha256:…"""
    lock: Digest | None = None
    """Digest of its lock: sha256:…"""

    @property
    def told(self) -> str:
        return self.job if self.step is None else f"{self.job}@{self.step}"


class Lineage(StatusModel):
    """Where the model of this job comes from."""

    jobs: Annotated[tuple[Ancestor, ...], Field(max_length=MAX_ANCESTORS)] = ()
    """The chain of jobs, the one that this job went on from first. Of a longer chain the nearest
    ones."""
    base: Annotated[str | None, Field(max_length=1024)] = None
    """The model that the first job of the chain started from, as its `spec.model.uri`."""
    base_commit: Digest | None = None
    """Commit of that model, where it came from a hub."""
    base_digest: Digest | None = None
    """Digest of that model as it was prepared: sha256:…"""

    @computed_field
    def summary(self) -> Annotated[str, Field(max_length=8192)] | None:
        """The chain in one line, for display: second@120 ← first@90 ← hf://organization/model."""
        commit = f"@{self.base_commit[:12]}" if self.base_commit else ""
        base = (f"{self.base}{commit}",) if self.base else ()
        return " ← ".join((*(job.told for job in self.jobs), *base)) or None


class Lock(StatusModel):
    """All that decides what training makes. Two jobs with equal digests would make the same."""

    digest: Digest
    """Digest of the fields below: sha256:…"""
    model: Digest
    """Digest of the prepared model: sha256:…"""
    model_commit: Digest | None = None
    """Its commit, where it came from a hub. Not part of the digest: the content is."""
    data: Digest
    """Digest of the prepared data: sha256:…"""
    spec: Digest
    """Digest of what the trainer was told to do, with what absent fields became: method,
    hyperparameters, ranks, evaluation, gate, and what follows bad numbers. Names, places and
    resources are not part of it."""
    image: Annotated[str, Field(max_length=512)]
    """Trainer image, as the pods name it."""
    image_digest: Digest | None = None
    """Digest of the image that ran, where the node told it; it then stands for the image."""
    versions: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """Versions of the trainer and the libraries that compute."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of order, initialization and dropout."""


class Reused(StatusModel):
    """A result of another job that has the same lock."""

    job: Annotated[str, Field(max_length=253)]
    """Name of the job that trained it, in the namespace of this job."""
    uid: Annotated[str, Field(max_length=64)]
    """Its UID."""
    path: Annotated[str, Field(max_length=1024)]
    """Folder of its result, on the claim of this job's result."""
    refused: Annotated[str | None, Field(max_length=1024)] = None
    """Why it was not used after all, so that this job trains. Absent: it is used."""
