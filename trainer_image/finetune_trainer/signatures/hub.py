# Generated from operator/finetune_operator/api/signatures/hub.py: do not edit.
"""Failures of fetching models and data over the network."""

from __future__ import annotations

from .signature import Signature

_HUB = "huggingface_hub, and the trainer's own download"
_TOKEN = "spec.model.secretRef names a Secret whose key `token` holds an access token"  # noqa: S105

HUB = (
    Signature(
        "HubGated",
        "ModelLoad",
        r"Cannot access gated repo|is gated and this token has no access"
        r"|Access to (?:model|dataset) .{1,200} is restricted",
        "The model or dataset is only given to people who accepted its terms.",
        "accept its terms on the hub with the account of the token; " + _TOKEN,
        _HUB,
        ("BadData",),
    ),
    Signature(
        "HubUnauthorized",
        "ModelLoad",
        r"\b401 (?:Client Error|Unauthorized)|HTTP 401\b|Invalid user token"
        r"|Invalid username or password",
        "The server asks for a login, or refuses the token.",
        _TOKEN + "; check that it is not revoked",
        _HUB,
        ("BadData",),
    ),
    Signature(
        "HubForbidden",
        "ModelLoad",
        r"\b403 (?:Client Error|Forbidden)|HTTP 403\b",
        "The token is known and may not read this.",
        "give the token read access to this repository; " + _TOKEN,
        _HUB,
        ("BadData",),
    ),
    Signature(
        "HubRevision",
        "ModelLoad",
        r"Revision Not Found for url|has no revision \S",
        "The repository has no such branch, tag or commit.",
        "correct spec.model.revision, or what follows @ in the uri of the data",
        _HUB,
        ("BadData",),
    ),
    Signature(
        "HubNotFound",
        "ModelLoad",
        r"(?:Repository|Entry) Not Found for url"
        r"|does not exist on https?://\S{1,200}, or is private"
        r"|is not a valid model identifier|HTTP 404\b|\b404 (?:Client Error|Not Found)",
        "There is no such repository or file, or it is private.",
        "check spec.model.uri and the uris of spec.data; for a private one " + _TOKEN,
        _HUB,
        ("BadData",),
    ),
    Signature(
        "HubRateLimit",
        "ModelLoad",
        r"\b429 (?:Client Error|Too Many Requests)|HTTP 429\b",
        "The server refuses more requests for now.",
        "try again later, or keep the model on a claim: spec.model.uri: pvc://claim/path",
        _HUB,
        ("BadData",),
    ),
    Signature(
        "HubServerError",
        "ModelLoad",
        r"Server error '5\d\d |\b50[0234] (?:Server Error|Internal Server Error|Bad Gateway"
        r"|Service Unavailable|Gateway Time-?out)|HTTP 50\d\b",
        "The server that holds the model or the data is in trouble.",
        "try again later, or keep the model on a claim: spec.model.uri: pvc://claim/path",
        _HUB,
        ("BadData",),
    ),
    Signature(
        "CertificateRefused",
        "ModelLoad",
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|\bSSLError\b|\[SSL: ",
        "The server's certificate is not trusted: a proxy of your own, or an address that is not "
        "the server's.",
        "let the trainer image trust your authority (SSL_CERT_FILE in the chart's "
        "trainer.env), or keep the model on a claim",
        "Python's ssl, httpx",
        ("BadData",),
    ),
    Signature(
        "NameNotResolved",
        "ModelLoad",
        r"Name or service not known|Temporary failure in name resolution"
        r"|No address associated with hostname|Name does not resolve|getaddrinfo failed",
        "The name of a server did not resolve.",
        "check the address in the uri, and that pods of this namespace may ask the cluster's DNS "
        "and reach outside",
        "the C library's resolver",
        ("BadData",),
    ),
    Signature(
        "HubUnreachable",
        "ModelLoad",
        r"We couldn't connect to '.{1,200}' to load the files|offline mode is enabled"
        r"|outgoing traffic has been disabled|cannot be reached for \S{1,200} \(tried"
        r"|\b(?:Connect|Read)Timeout\b|(?:Connect|Proxy)Error\b.{0,200}(?:refused|unreachable"
        r"|timed out)"
        r"|urlopen error .{0,40}(?:refused|unreachable|timed out)|cannot be reached: ",
        "The server that holds the model or the data did not answer.",
        "let the prepare pod reach it (NetworkPolicy, proxy), or keep the model on a claim: "
        "spec.model.uri: pvc://claim/path",
        "huggingface_hub, transformers, httpx and urllib",
        ("BadData",),
    ),
)
