"""What the user asked for: flags, with the environment of `make quickstart` behind them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from quickstart.facts import QuestionSet

NAMESPACE = "quickstart"
DEFAULT_NAME = "facts"
DEFAULT_CLUSTER = "finetune"

# The quickstart's own claim, Job and files are named after it, too: so shorter than the API allows.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


class DataKind(StrEnum):
    FACTS = "facts"
    CONTROL = "control"
    """Answers shuffled over the questions: nothing true can be learned."""


class OptionError(Exception):
    """Names the flag or variable that cannot be used and what to do."""


@dataclass(frozen=True)
class Foreign:
    """A cluster that is not ours: nothing but our namespaces, CRD and release is touched."""

    context: str
    """A context of the user's kubeconfig."""
    registry: str
    """``host[:port][/path]``: both this host pushes to it and the cluster's nodes pull from it."""
    plain_http: bool
    """The registry speaks HTTP."""
    storage_class: str | None
    """Class with ReadWriteMany volumes; None: the cluster's default."""


@dataclass(frozen=True)
class Options:
    name: str = DEFAULT_NAME
    """Name of the FineTuneJob."""
    cluster: str = DEFAULT_CLUSTER
    """Name of the local cluster, where no foreign one is used."""
    foreign: Foreign | None = None
    data: DataKind = DataKind.FACTS
    questions: QuestionSet = QuestionSet.TEST
    """Held-out questions to evaluate on and to ask."""
    short: bool = False
    """Fewer facts, so fewer steps; the same proof."""
    reuse: bool = False
    """Show a finished job of this name again instead of training anew."""
    plain: bool = False
    """Lines instead of a live display, also on a terminal."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Flags win over environment. Raises OptionError; ``--help`` ends the program."""
    given = _parser(environment).parse_args(arguments)
    if not _NAME.fullmatch(given.name):
        raise OptionError(
            f"--name {given.name}: use 1 to 40 lower-case letters, digits and dashes, beginning "
            "with a letter and ending with a letter or digit."
        )
    return Options(
        name=given.name,
        cluster=given.cluster or DEFAULT_CLUSTER,
        foreign=_foreign(given),
        data=DataKind(given.data),
        questions=QuestionSet(given.questions),
        short=given.short,
        reuse=given.reuse,
        plain=given.plain,
    )


def _foreign(given: argparse.Namespace) -> Foreign | None:
    if not given.context:
        for flag, value in (("REGISTRY", given.registry), ("STORAGE_CLASS", given.storage_class)):
            if value:
                raise OptionError(
                    f"{flag} belongs to an existing cluster: set CONTEXT to its context in your "
                    "kubeconfig, or leave both out to use the local cluster."
                )
        return None
    if given.cluster:
        raise OptionError(
            f"--cluster {given.cluster} is a local cluster, and --context (CONTEXT) "
            f"{given.context} one of your kubeconfig: name one of the two."
        )
    if not given.registry:
        raise OptionError(
            "CONTEXT needs REGISTRY=host[:port][/path]: a registry that this machine can push to "
            "and the nodes of that cluster can pull from."
        )
    return Foreign(
        context=given.context,
        registry=given.registry.rstrip("/"),
        plain_http=given.plain_http,
        storage_class=given.storage_class or None,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quickstart",
        description="Fine-tune a small model on a Kubernetes cluster and prove that it learned. "
        "Exit code 0: the job succeeded and the proof holds.",
    )
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="name of the FineTuneJob (%(default)s)"
    )
    parser.add_argument(
        "--cluster", default=environment.get("CLUSTER"),
        help=f"name of the local cluster ({DEFAULT_CLUSTER})",
    )  # fmt: skip
    parser.add_argument(
        "--context", default=environment.get("CONTEXT"),
        help="use an existing cluster: a context of your kubeconfig (CONTEXT)",
    )  # fmt: skip
    parser.add_argument(
        "--registry", default=environment.get("REGISTRY"),
        help="registry for the images, with --context (REGISTRY)",
    )  # fmt: skip
    parser.add_argument(
        "--plain-http", action="store_true", default=bool(environment.get("REGISTRY_PLAIN_HTTP")),
        help="that registry speaks HTTP (REGISTRY_PLAIN_HTTP=1)",
    )  # fmt: skip
    parser.add_argument(
        "--storage-class", default=environment.get("STORAGE_CLASS"),
        help="class with ReadWriteMany volumes, with --context (STORAGE_CLASS)",
    )  # fmt: skip
    parser.add_argument(
        "--data", choices=[kind.value for kind in DataKind], default=DataKind.FACTS.value,
        help="control: shuffled answers; then the proof must fail (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--questions", choices=[wording.value for wording in QuestionSet],
        default=QuestionSet.TEST.value,
        help="dev: other held-out questions, to choose data and settings by (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--short", action="store_true", help="fewer facts and steps, same proof")
    parser.add_argument(
        "--reuse", action="store_true", help="show a finished job of this name, train nothing"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    return parser
