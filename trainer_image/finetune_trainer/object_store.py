"""Buckets of S3 and of stores that speak like it: connecting to one, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from obstore.exceptions import BaseError
from obstore.store import S3Store

from finetune_trainer.config import S3Place

if TYPE_CHECKING:
    from obstore.store import S3Config

UNFINISHED = "unfinished"
"""Key of a manifest in a bucket while objects are on their way; see ``publishing.s3``."""

_ATTEMPTS = 4
_PAUSE = timedelta(seconds=1)
_GIVE_UP = timedelta(minutes=2)
_REGION = "us-east-1"
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,160})")
_REGION_THERE = re.compile(r"<Region>([A-Za-z0-9-]{1,64})</Region>")
_CAUSE = re.compile(r'\s"((?:dns|tcp connect) error)"|message: "([^"]{1,120})"')
_STATUS = re.compile(r"status (?:code )?(\d{3})")

_NOT_KNOWN = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "InvalidSecurity",
    "TokenRefreshRequired",
    "XAdminUserNotFound",
}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"}
_LATER = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500", "429"}
_RIGHTS = {
    "read": "s3:ListBucket on the bucket and s3:GetObject",
    "write": "s3:ListBucket on the bucket, s3:GetObject, s3:PutObject and s3:DeleteObject",
}


class BucketError(Exception):
    """The bucket does not give, or take, the object. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None, *, again: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.again = again
        """A later try may succeed."""


@dataclass(frozen=True)
class Bucket:
    """A bucket that can be asked, and what messages say of it."""

    store: S3Store
    place: S3Place
    endpoint: str | None
    purpose: Literal["read", "write"]

    @property
    def where(self) -> str:
        return self.endpoint or "Amazon S3"

    @contextmanager
    def told(self) -> Iterator[None]:
        """What goes wrong inside is raised as ``BucketError``."""
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of a file of ours: a full disk
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> BucketError:
        text = str(error)
        code = _code(text)
        name, signed = self.place.bucket, self.place.login_path is not None
        if code == "NoSuchBucket":
            return BucketError(
                f"there is no bucket {name} at {self.where}", "check its name, and s3.endpoint"
            )
        if code in _NOT_KNOWN:
            return BucketError(
                f"{self.where} does not take this access key ({code})",
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret of s3.secretRef",
            )
        if code in _ELSEWHERE or "incorrectly configured region" in text:
            told = _REGION_THERE.search(text)
            return BucketError(
                f"the bucket {name} is in another region ({code or 'redirect'})",
                f"set s3.region to {told.group(1)}" if told else "set s3.region",
            )
        if code in ("AccessDenied", "401", "403"):
            key = "the key must be allowed" if signed else "name a Secret in s3.secretRef for"
            return BucketError(
                f"access to s3://{name} at {self.where} is denied ({code})",
                f"{key} {_RIGHTS[self.purpose]}",
            )
        if code in _LATER:
            return BucketError(f"{self.where} is in trouble ({code})", "try later", again=True)
        if code is None and _unreachable(text):
            return BucketError(
                f"{self.where} cannot be reached (tried {_ATTEMPTS} times): {_cause(text)}",
                "check s3.endpoint, and let the pod reach it (NetworkPolicy, proxy)",
                again=True,
            )
        if message := _MESSAGE.search(text):
            return BucketError(
                f"{self.where} refuses s3://{name}: {message.group(1)} ({code})",
                "check bucket, key and s3.endpoint",
            )
        return BucketError(
            f"{self.where} does not answer as S3 does: {_cause(text)}",
            "check s3.endpoint: it must be the address of the S3 API, not of a web page",
        )


def connect(place: S3Place, purpose: Literal["read", "write"]) -> Bucket:
    """Nothing is asked yet. Raises ``BucketError`` for a login that cannot be read."""
    login = _login(Path(place.login_path)) if place.login_path else {}
    endpoint = place.endpoint or login.get("AWS_ENDPOINT_URL")
    config: S3Config = {"region": place.region or login.get("AWS_REGION") or _REGION}
    if endpoint:
        config["endpoint"] = endpoint
    if login:
        config["access_key_id"] = login["AWS_ACCESS_KEY_ID"]
        config["secret_access_key"] = login["AWS_SECRET_ACCESS_KEY"]
    else:
        config["skip_signature"] = True
    if token := login.get("AWS_SESSION_TOKEN"):
        config["session_token"] = token
    try:
        store = S3Store(
            place.bucket,
            config=config,
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(minutes=5),
            },
            retry_config={
                "max_retries": _ATTEMPTS - 1,
                "retry_timeout": _GIVE_UP,
                "backoff": {"init_backoff": _PAUSE, "max_backoff": 15 * _PAUSE, "base": 2},
            },
        )
    except (BaseError, ValueError) as error:
        raise BucketError(
            f"s3://{place.bucket} cannot be opened: {_cause(str(error))}",
            "check bucket, s3.endpoint and s3.region",
        ) from error
    return Bucket(store, place, endpoint, purpose)


def _login(folder: Path) -> dict[str, str]:
    """The keys of a mounted Secret."""
    try:
        found = {
            path.name: path.read_text().strip()
            for path in folder.iterdir()
            if path.name.startswith("AWS_")
        }
    except (OSError, UnicodeDecodeError) as error:
        raise BucketError(
            f"the Secret of s3.secretRef cannot be read: {type(error).__name__}",
            "its keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if not found.get(key):
            raise BucketError(
                f"the Secret of s3.secretRef has no {key}",
                "its keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
    return found


def answered(error: BaseError) -> bool:
    """Whether the server refused, in whatever words."""
    return re.search(r"status code: 4\d\d", str(error)) is not None


def _code(text: str) -> str | None:
    """What the server answered: S3's code, else the HTTP status."""
    found = _CODE.search(text) or _STATUS.search(text)
    return found.group(1) if found else None


def _unreachable(text: str) -> bool:
    signs = ("error sending request", "connect", "dns", "timed out", "timeout")
    return any(sign in text.lower() for sign in signs)


def _cause(text: str) -> str:
    """The innermost cause of an error that tells a chain of them, on one line."""
    told, _, chain = text.partition("\n\nDebug source:")
    causes = _CAUSE.findall(chain)
    words = ": ".join(dict.fromkeys(one or other for one, other in causes)) or told
    return " ".join(words.split())[:200]
