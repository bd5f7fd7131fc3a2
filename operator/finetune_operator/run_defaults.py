"""What the trainer takes where run.json says nothing; such values are left out of it.

A job keeps the image that it began with, and the trainer refuses a key that it does not know. So a
key that a later operator adds must reach an earlier image only where its job asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """Defaults of an object's keys."""

    keys: Mapping[str, Any]
    asked_for: bool = False
    """The object itself says something, even where it has no keys left."""


def _asked_for(**keys: Any) -> Part:
    return Part(keys, asked_for=True)


def _part(**keys: Any) -> Part:
    return Part(keys)


_BUCKET = _asked_for(key="")
_SOURCE = _asked_for(hub=_asked_for(revision="main"), s3=_BUCKET, format="Auto", fields={})
_NEAR_DUPLICATES = _part(policy="Report", similarity=0.85)
_GENERATION = _asked_for(
    metrics=["BLEU", "ChrF", "RougeL", "ExactMatch"],
    maxPrompts=64,
    maxNewTokens=128,
    scorers=[_asked_for(command=[], args=[])],
)
_DESTINATION = _asked_for(
    hub=_asked_for(revision="main", private=True), oci=_asked_for(plainHTTP=False), s3=_BUCKET
)

DEFAULTS = _asked_for(
    model=_asked_for(hub=_asked_for(revision="main"), s3=_BUCKET, job=_asked_for(lineage={})),
    data=_asked_for(
        train=[_SOURCE],
        eval=[_SOURCE],
        general=[_SOURCE],
        augment=_asked_for(command=[], args=[]),
        evalFraction=0.05,
        packing="Isolated",
        lossOn="Assistant",
        overlong="Truncate",
        cleaning=_part(
            normalize="NFC",
            brokenRows="Drop",
            encoding="Drop",
            emptyAnswers="Drop",
            duplicateIds="Report",
            exactDuplicates="Drop",
            lengthOutliers="Report",
            ratioOutliers="Report",
            nearDuplicates=_NEAR_DUPLICATES,
            evalLeakage="Report",
            templateRefusals="Drop",
        ),
        expect=_part(minRows=1, maxBrokenFraction=0.05, maxLeakedFraction=0.5),
        report=_part(columns=[], terms=[]),
        maxDownloadBytes=10 * 2**30,
    ),
    method=_asked_for(
        lora=_asked_for(
            rank=16, alpha=32, dropout=0.0, rslora=False, dora=False, targetModules="AllLinear"
        )
    ),
    training=_asked_for(
        schedule=_part(type="Cosine", warmupFraction=0.03, finalFraction=0.1),
        optimizer=_part(type="AdamW", weightDecay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8),
        maxGradNorm=1.0,
        dropout=0.0,
        precision="Auto",
        activationCheckpointing=False,
        seed=42,
    ),
    offload=_part(optimizer="None", parameters="None"),
    evaluation=_part(
        baseline=True,
        generation=_GENERATION,
        pairedPrompts=[],
        overfitting=_part(action="Warn", patience=3, minDelta=0.0),
    ),
    gate=_asked_for(scores=[], scorers=[]),
    checkpoint=_part(
        everySeconds=1800,
        asynchronous=True,
        keep=2,
        onDiskFull="RemoveOldest",
        afterSuccess="Keep",
    ),
    recovery=_part(
        hangAfterSeconds=300,
        onNonFinite="Skip",
        onLossSpike="Ignore",
        maxSkippedSteps=3,
        lossSpike=_part(factor=8.0, windowSteps=64),
        passedOver=[],
    ),
    output=_part(formats=["Merged"], ggufType="F16", external=False, destinations=[_DESTINATION]),
)
"""Of the whole run.json. A list of one `Part`: a list of such objects, by default an empty one."""


def without_defaults(config: Mapping[str, Any], part: Part = DEFAULTS) -> dict[str, Any]:
    """``config`` without what the trainer takes anyway."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        default = part.keys.get(name)
        match default:
            case Part():
                said = without_defaults(value, default)
                if said or default.asked_for:
                    kept[name] = said
            case [Part() as each]:
                if value:
                    kept[name] = [without_defaults(item, each) for item in value]
            case _ if name not in part.keys or value != default:
                kept[name] = value
    return kept
