"""docs/failures.md: the classes and signatures of failures as tables for users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cluster_signatures import CLUSTER_SIGNATURES
from .failures import FAILURE_CLASSES
from .signatures.signature import Signature
from .signatures.table import SIGNATURES

_HEADER = """\
<!-- Generated from operator/finetune_operator/api by `make generate`. Do not edit. -->
# When a job fails

`status.failure` holds the failure that counts: that of the first rank which failed by itself, not
what followed from it.

```
kubectl get finetunejob NAME -o jsonpath='{.status.failure}'
```

| field | what it says |
|---|---|
| `class` | what kind of failure, as in conditions, events and metrics |
| `signature` | the known failure that the pod's output shows; absent where none is recognised |
| `message` | what is wrong and where, in the words of the program |
| `cause` | what the signature means, in one sentence |
| `hint` | what to do: the field or object to change |
| `lines` | the last lines that say something; `(×8 ranks)`: so many ranks of the pod said it |
| `rank`, `pod`, `node`, `exitCode`, `step`, `at` | who, where, how, how far and when |

Everything above is cleared of secrets before it leaves the pod, and once more before the operator
stores it: access tokens (Hugging Face, AWS, GitHub, GitLab, Slack, NVIDIA, JSON Web Tokens), bearer
and basic authorization, logins in addresses, signatures of signed addresses, PEM blocks, and values
assigned to names such as `password`, `token` or `api_key`. The logs of the pods are cleared too. A
secret of unknown form under an innocent name cannot be recognised.
"""

_CLASSES = """\
## Classes

Budget None: the job ends, for a repeat would fail in the same way.
"""

_SIGNATURES = """\
## Signatures

They are looked for in the failing rank's message and last lines, in this order; the first that
matches counts. A failure that says its class itself is only explained by signatures of that class;
one that nobody foresaw (`Internal`) takes the class of its signature.
"""

_CLUSTER = """\
## While pods do not run

Why pods are not made, placed, pulled or started stands in `status.pendingReason`, in the words of
Kubernetes and with the hint of these signatures.
"""


def failures_markdown() -> str:
    """The whole file."""
    classes = [
        (f"`{kind.name}`", str(kind.exit_code), kind.budget.value, kind.meaning)
        for kind in FAILURE_CLASSES
    ]
    parts = (
        _HEADER,
        _CLASSES,
        _table(("class", "exit code", "budget", "meaning"), classes),
        _SIGNATURES,
        _signatures(SIGNATURES),
        _CLUSTER,
        _signatures(CLUSTER_SIGNATURES),
    )
    return "\n".join(parts)


def _signatures(table: Iterable[Signature]) -> str:
    rows = [
        (f"`{known.name}`", f"`{known.failure_class}`", known.cause, known.hint, known.source)
        for known in table
    ]
    return _table(("signature", "class", "cause", "what to do", "printed by"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
