"""Forecasts with real guests: two traps of which one hides the other, none, and one today."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from buildvm_nb.catalog import Catalog
from buildvm_nb.cli import main

pytestmark = [pytest.mark.vm]

CASE = """
schema = 1
id = "sample"
[source]
kind = "local"
path = "."
[image]
base = "debian:bookworm"
packages = ["python3"]
[limits]
memory_mib = 512
[[step]]
name = "test"
run = "sh run-tests"
"""
FIRST = datetime(2028, 9, 7, 14, 25, tzinfo=UTC)
SECOND = datetime(2031, 7, 7, 3, 0, 12, tzinfo=UTC)


def certificate(name, ends):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(4711)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


@pytest.fixture
def forecast(tmp_path, monkeypatch, capsys):
    """Run ``buildvm forecast`` on a project whose tests fail after the ends of certificates."""
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "buildvm.toml").write_text(CASE)

    def call(*words, **ends):
        lines = ["now=$(date +%s)", "status=0"]
        for name, end in ends.items():
            (project / f"{name}.pem").write_bytes(certificate(name, end))
            failing = f"echo FAILED test_{name}; echo Error: {name} has expired; status=1"
            lines.append(f"if test $now -gt {int(end.timestamp())}; then {failing}; fi")
        (project / "run-tests").write_text("\n".join([*lines, "exit $status\n"]))
        status = main(["forecast", str(project), *words])
        out, err = capsys.readouterr()
        return status, out, err

    call.place = tmp_path / "catalog.sqlite"
    return call


@pytest.mark.long
def test_both_breaks_are_told_to_the_second_with_their_certificates(forecast):
    status, out, err = forecast("--until", "2032", "--json", a=FIRST, b=SECOND)
    assert status == 3, err
    told = json.loads(out)
    assert told["status"] == "breaks"
    assert told["sound_until"] == "2028-09-07T14:25:00Z"
    first, second = told["changes"]
    assert (first["first_after"], first["is_exact"]) == ("2028-09-07T14:25:01Z", True)
    assert (first["tests"], first["of_whole"]) == (["test_a"], True)
    assert first["failing_line"] == "Error: a has expired"
    assert (first["cause"]["path"], first["cause"]["line"]) == ("a.pem", 1)
    assert (second["first_after"], second["is_exact"]) == ("2031-07-07T03:00:13Z", True)
    assert (second["tests"], second["of_whole"]) == (["test_b"], False)
    assert second["failing_line"] == "Error: b has expired"
    assert second["cause"]["path"] == "b.pem"
    with Catalog(forecast.place) as catalog:
        finding = catalog.finding(told["finding"])
        assert len(catalog.outcomes()) == told["runs"]
    assert finding.boundaries[0].first_after == "2028-09-07T14:25:01Z"


@pytest.mark.long
def test_a_sound_project_exits_with_0_and_one_broken_today_with_5(forecast):
    status, out, err = forecast("--until", "8m", a=SECOND)
    assert status == 0, err
    assert "Nothing breaks" in out
    status, out, err = forecast("--until", "8m", a=datetime.now(UTC) - timedelta(days=2))
    assert status == 5, err
    assert "fails today already" in out
    assert "Error: a has expired" in out
    assert "no forecast: the tests do not pass today" in err
