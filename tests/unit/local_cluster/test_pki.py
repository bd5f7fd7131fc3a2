"""Certificates are reused while they fit and renewed when they do not."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509

from local_cluster import pki
from local_cluster.pki import Authority, signing_keys


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_leaf_is_signed_by_its_authority_and_names_its_hosts(authority: Authority) -> None:
    pair = authority.issue("server", "srv", organization="org", hosts=["10.0.0.1", "localhost"])
    leaf = load(pair.certificate)
    leaf.verify_directly_issued_by(load(authority.pair.certificate))
    assert leaf.subject.rfc4514_string() == "CN=srv,O=org"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


@pytest.mark.parametrize(
    ("common_name", "hosts", "renewed"),
    [
        ("srv", ["10.0.0.1"], False),
        ("other", ["10.0.0.1"], True),
        ("srv", ["10.0.0.1", "10.0.0.2"], True),
        ("srv", [], True),
    ],
)
def test_a_leaf_is_renewed_when_its_names_change(
    authority: Authority, common_name: str, hosts: list[str], renewed: bool
) -> None:
    first = load(authority.issue("server", "srv", hosts=["10.0.0.1"]).certificate)
    second = load(authority.issue("server", common_name, hosts=hosts).certificate)
    assert (first.serial_number != second.serial_number) is renewed


def test_a_leaf_is_renewed_before_it_runs_out(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    year = datetime.timedelta(days=365)
    monkeypatch.setattr(pki, "_LEAF_LIFE", year / 4)
    old = load(authority.issue("client", "c").certificate)
    monkeypatch.setattr(pki, "_LEAF_LIFE", year)
    new = load(authority.issue("client", "c").certificate)
    assert new.not_valid_after_utc > old.not_valid_after_utc


def test_keys_have_mode_0600(authority: Authority, tmp_path: Path) -> None:
    authority.issue("client", "c")
    signing_keys(tmp_path)
    keys = list(tmp_path.glob("*.key"))
    assert len(keys) == 3
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_an_authority_and_token_keys_stay_what_they_are(
    authority: Authority, tmp_path: Path
) -> None:
    before = [authority.pair.key.read_bytes(), signing_keys(tmp_path).key.read_bytes()]
    again = Authority(tmp_path)
    assert [again.pair.key.read_bytes(), signing_keys(tmp_path).key.read_bytes()] == before
