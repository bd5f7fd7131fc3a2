"""The result as status tells it."""

from __future__ import annotations

from ..api.types import Artifact, ConditionType, DestinationStatus, OutputFormat, Reason, SmokeTest
from ..plan import TrainingPlan
from ..reports import ArtifactReport, LastWords

SERVING = "serving.yaml"


def published(plan: TrainingPlan, told: ArtifactReport | None) -> Artifact:
    """``told`` is what export said of it; None where its words are lost."""
    formats = plan.spec.output.formats
    asked = told.smoke_test if told else None
    place = f"{plan.output_path}/{SERVING}" if plan.output_path else SERVING
    return Artifact(
        uri=plan.spec.output.uri or f"pvc://{plan.claim_name}/{plan.output_path}",
        path=plan.output_path,
        digest=told.digest if told else None,
        bytes=told.bytes if told else None,
        step=told.step if told else None,
        formats=tuple(form.value for form in formats),
        smoke_test=SmokeTest(**asked.model_dump()) if asked else None,
        serving_path=place if OutputFormat.MERGED in formats else None,
        destinations=tuple(
            DestinationStatus(name=each.name, uri=each.uri or None, digest=each.digest)
            for each in (told.destinations if told else ())
        )
        or None,
    )


def told_published(words: LastWords | None) -> dict[str, tuple[str, str, str]]:
    """Condition Published of a job whose export told how it was checked; else empty."""
    told = words.artifact if words else None
    if told is None or told.smoke_test is None:
        return {}
    checked = ["was loaded again"]
    if {OutputFormat.MERGED.value, OutputFormat.GGUF.value} & set(told.formats):
        checked.append(f"compared (logits differ by {told.max_logit_difference or 0:.2g} at most)")
    if told.quantization_logit_difference is not None:
        most = f"by {told.quantization_logit_difference:.2g} at most"
        checked.append(f"compared with what was trained beside 4-bit weights ({most})")
    asked = told.smoke_test
    said = f"{asked.answer!r}" if asked.answer else "nothing"
    pushed = ", ".join(each.name for each in told.destinations)
    message = f"the result {', '.join(checked)} and asked {asked.prompt!r}: it said {said}"
    message += f"; pushed to {pushed}" if pushed else ""
    return {ConditionType.PUBLISHED.value: ("True", Reason.PUBLISHED.value, message)}
