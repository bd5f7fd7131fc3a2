"""The rules by name, in the order in which a row meets them; the first that drops it counts.

The names are those of the fields below ``spec.data.cleaning``; the last three have no field there,
because a row under them has nothing to teach. The report prints the meanings.
"""

from __future__ import annotations

BROKEN_ROWS = "brokenRows"
ENCODING = "encoding"
EMPTY_ANSWERS = "emptyAnswers"
DUPLICATE_IDS = "duplicateIds"
EXACT_DUPLICATES = "exactDuplicates"
LENGTH_OUTLIERS = "lengthOutliers"
RATIO_OUTLIERS = "ratioOutliers"
NEAR_DUPLICATES = "nearDuplicates"
EVAL_LEAKAGE = "evalLeakage"
TEMPLATE_REFUSALS = "templateRefusals"
NO_TARGETS = "noTargets"
NO_TARGETS_IN_LENGTH = "noTargetsWithinSequenceLength"
TOO_LONG = "tooLong"

MEANINGS = {
    BROKEN_ROWS: "the row cannot be parsed, or does not have the shape of its source's format",
    ENCODING: "text that is not valid Unicode",
    EMPTY_ANSWERS: "the answer is missing or blank",
    EXACT_DUPLICATES: "the same content as an earlier row",
    DUPLICATE_IDS: "the same id as an earlier row of the source, with other content",
    LENGTH_OUTLIERS: "far longer or far shorter than the other rows of its source",
    RATIO_OUTLIERS: "an answer far longer or far shorter for its prompt than in other rows",
    NEAR_DUPLICATES: "almost the same content as an earlier row",
    EVAL_LEAKAGE: "a training row that is the same, or almost, as a held-out or general row",
    TEMPLATE_REFUSALS: "the chat template refuses it, or does not tell where the answers are",
    NO_TARGETS: "no text to learn from",
    NO_TARGETS_IN_LENGTH: "the text to learn begins beyond spec.data.sequenceLength",
    TOO_LONG: "longer than spec.data.sequenceLength",
}
RULES = tuple(MEANINGS)
