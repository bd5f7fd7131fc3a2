"""Where model and data come from: uri → mount, hub reference, bucket or address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .api.types import DataSource, FineTuneJobSpec, Lineage, S3Access, TrainSource
from .errors import Fault
from .object_store import S3_SCHEME, Bucket

SOURCES = "/sources"
CHAT_TEMPLATE_PATH = f"{SOURCES}/chat-template/template"
JOB_SCHEME = "job://"
S3_LOGINS = f"{SOURCES}/s3"
MODEL, MODEL_BASE, PUBLISHED = "model", "model-base", "published"
"""Mounts below /sources, besides those of the data."""


@dataclass(frozen=True)
class ResolvedOutput:
    """The result of another FineTuneJob, as far as it can be used."""

    claim: str
    path: str
    """Folder on the claim: of the merged model or the adapter; of all the job's files for a
    checkpoint."""
    base: tuple[str, str] | None = None
    """Claim and folder of the model that the adapter belongs to."""
    step: int | None = None
    """The checkpoint to take."""
    lineage: Lineage = field(default_factory=Lineage)
    """As the job that starts from it will tell it."""

    def told(self, name: str) -> dict[str, Any]:
        """What run.json says of it."""
        kind = "Checkpoint" if self.step is not None else "Adapter" if self.base else "Merged"
        return {
            "name": name,
            "kind": kind,
            "basePath": f"{SOURCES}/{MODEL_BASE}" if kind == "Adapter" else None,
            "step": self.step,
            "lineage": self.lineage.wire(),
        }


@dataclass(frozen=True)
class ClaimUse:
    """A claim that a pod mounts, and the field that wishes so."""

    name: str
    field: str
    shared: bool
    """Several pods mount it at once: it must be ReadWriteMany."""


@dataclass(frozen=True)
class Source:
    """One place to read from. Exactly one of image, claim, hub, bucket, url is set."""

    slot: str
    """Name of the mount below /sources: model, train-0, eval-1, general-0."""
    field: str
    """Path in the FineTuneJob: ``spec.data.train[0].uri``."""
    image: str | None = None
    claim: str | None = None
    sub_path: str | None = None
    """Folder of the claim that is mounted; None: all of it."""
    path: str | None = None
    """Where the pod finds it."""
    hub: tuple[str, str | None] | None = None
    """Repository and revision."""
    bucket: Bucket | None = None
    url: str | None = None

    @property
    def claim_use(self) -> ClaimUse | None:
        return ClaimUse(self.claim, self.field, False) if self.claim else None

    @property
    def place(self) -> dict[str, Any]:
        """The part of run.json that says where it is."""
        if self.hub:
            repository, revision = self.hub
            return {"hub": {"repository": repository, "revision": revision or "main"}}
        if self.bucket:
            return {"s3": self.bucket.told()}
        return {"url": self.url} if self.url else {"path": self.path}


def locate_sources(
    spec: FineTuneJobSpec, outputs: Mapping[str, ResolvedOutput]
) -> tuple[tuple[Source, ...], tuple[Fault, ...]]:
    """All sources, the model first, and what is wrong with them."""
    model, data = spec.model, spec.data
    wishes = [(MODEL, "spec.model.uri", model.uri, model.revision, model.s3)]
    for part, sources in (("train", data.train), ("eval", data.eval), ("general", data.general)):
        wishes += [
            (f"{part}-{i}", f"spec.data.{part}[{i}].uri", source.uri, None, source.s3)
            for i, source in enumerate(sources or ())
        ]
    found, faults = [], []
    for slot, place, uri, revision, access in wishes:
        if uri.startswith(S3_SCHEME):
            bucket = Bucket(uri, access or S3Access(), S3_LOGINS)
            found.append(Source(slot, place, bucket=bucket))
            continue
        source = _locate(slot, place, uri, revision, outputs)
        if source is None:
            faults.append(Fault(place, f"{uri!r} is not an address that can be used"))
        else:
            found.append(source)
    job = named_job({"model": {"uri": spec.model.uri}})
    output = outputs.get(job) if job else None
    if output and output.base:
        claim, path = output.base
        place = f"{SOURCES}/{MODEL_BASE}"
        found.append(Source(MODEL_BASE, "spec.model.uri", claim=claim, sub_path=path, path=place))
    return tuple(found), tuple(faults)


def named_job(spec: Mapping[str, Any]) -> str | None:
    """The FineTuneJob that the model is taken from, for ``job://name``; from a raw spec."""
    model = spec.get("model")
    uri = model.get("uri") if isinstance(model, Mapping) else None
    return uri.removeprefix(JOB_SCHEME) if isinstance(uri, str) and uri[:6] == JOB_SCHEME else None


def _locate(
    slot: str, field: str, uri: str, revision: str | None, outputs: Mapping[str, ResolvedOutput]
) -> Source | None:
    scheme, _, rest = uri.partition("://")
    mount = f"{SOURCES}/{slot}"
    match scheme:
        case "image":
            reference, _, path = rest.partition("//")
            return Source(slot, field, image=reference, path=_join(mount, path))
        case "pvc":
            # The whole claim is mounted: the kubelet would make a folder of a missing subPath,
            # and the user would never learn of the wrong path.
            claim, _, path = rest.partition("/")
            return Source(slot, field, claim=claim, path=_join(mount, path))
        case "job":
            output = outputs.get(rest)
            if output is None:  # not known yet: the job waits, nothing is mounted
                return Source(slot, field, path=mount)
            return Source(slot, field, claim=output.claim, sub_path=output.path, path=mount)
        case "hf":
            repository, _, pinned = rest.removeprefix("datasets/").partition("@")
            return Source(slot, field, hub=(repository, revision or pinned or None))
        case "https":
            return Source(slot, field, url=uri)
    return None


def _join(mount: str, path: str) -> str:
    return f"{mount}/{path}" if path else mount


def data_source(source: DataSource, place: Source) -> dict[str, Any]:
    """A data source as run.json has it."""
    fields = source.fields.wire() if source.fields else {}
    entry: dict[str, Any] = {
        "name": source.name,
        "field": place.field.removesuffix(".uri"),
        "format": source.format.value,
        **place.place,
    }
    for name in ("file", "config", "split"):
        if given := getattr(source, name):
            entry[name] = given
    if isinstance(source, TrainSource) and source.weight is not None:
        entry["weight"] = source.weight
    if fields:
        entry["fields"] = fields
    return entry
