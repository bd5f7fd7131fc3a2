"""Texts with a secret in them, and texts that only look so. No secret here opens anything."""

from __future__ import annotations

SECRET = "Zx9qLm2Rt7Vb4Nc8Kp1Wd6Yh3Js5Gf0"
KEY_LINES = ["MIIEpAIBAAKCAQEA" + SECRET, SECRET + "==", "q80d1f2g=="]

SECRETS = [
    f"token hf_{SECRET} is used",
    f"api_org_{SECRET}",
    "key AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    f"export AWS_SESSION_TOKEN={SECRET}",
    f"remote: ghp_{SECRET}",
    f"glpat-{SECRET}",
    f"xoxb-{SECRET}",
    f"OPENAI sk-{SECRET}",
    f"nvapi-{SECRET}",
    f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"curl -H 'authorization: Basic {SECRET}'",
    f'{{"Authorization": "Bearer {SECRET}"}}',
    f"sent bearer {SECRET}",
    f"cloning https://user:{SECRET}@example.test/team/model",
    f"cloning https://{SECRET}@example.test/team/model",
    f"postgres://app:{SECRET}@db:5432/x",
    f"GET https://cdn.example.test/model.safetensors?X-Amz-Signature={SECRET}&part=1",
    f"GET https://cdn.example.test/x?sig={SECRET}",
    f"password={SECRET}",
    f"Password: {SECRET}",
    f"passphrase = '{SECRET}'",
    f"HF_TOKEN={SECRET}",
    f"WANDB_API_KEY: {SECRET}",
    f'{{"token": "{SECRET}"}}',
    f'"auth": "{SECRET}"',
    f"client_secret={SECRET}",
    "-----BEGIN RSA PRIVATE KEY-----\\n" + KEY_LINES[0] + "\\n-----END RSA PRIVATE KEY-----",
    "\n".join(["-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----"]),
    "\n".join(["-----BEGIN EC PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED", "", *KEY_LINES]),
]
VALUES = (
    SECRET,
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI",
    "MIIEpAIBAAKCAQEA",
)

HARMLESS = [
    "step 12 of 90 loss 1.2345 tokens/s 1800.2",
    "eos_token='<|endoftext|>' pad_token=<pad> bos_token=None",
    "special tokens: 12345678",
    "token_id: 128009",
    "unexpected token: something",
    'MountVolume.SetUp failed for volume "secret" : secret "hf-token" not found',
    "couldn't find key token in Secret team/hub",
    "spec.model.secretRef: names a Secret whose key `token` holds it",
    "image://registry.example.test/team/model@sha256:0123456789abcdef",
    "https://example.test:8443/team/model?revision=main&part=1",
    "hf://datasets/team/rows@main",
    "tokenizer.json and tokenizer_config.json",
    "attention key: query value projections",
    "no basic auth credentials",
    "basic training with bearer of news",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "asian aromas, skills and tasks-in-a-row",
    "KeyError: 'messages'",
    "-----BEGINNING of the log-----",
]
