"""A server that goes away while a catalog is in use, and comes back."""

import subprocess
import sys
from pathlib import Path

import pytest

from buildvm_nb.catalog.store import Catalog
from buildvm_nb.cli import main
from buildvm_nb.errors import CatalogError, CatalogUnreachable
from buildvm_nb.model.case import Case, Step
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome

ROOT = Path(__file__).parents[2]
CASE = Case(id="demo", step=[Step(name="test", run="true")])


def an_outcome(**more):
    return Outcome(case=CASE, machine=MachineSpec(date="2020-01-01"), verdict="passed", **more)


def a_finding(**more):
    return Finding(case=CASE, kind="sound", summary="it passes", confidence=1, **more)


def waiting(logs):
    return sorted(path.name[:7] for path in logs.glob("unsent-*/*.json"))


def test_what_a_lost_server_cannot_take_is_kept_here_and_sent_when_it_is_back(
    own_postgres, tmp_path
):
    told, logs = [], tmp_path / "logs"
    with own_postgres.database() as url:
        with Catalog(url, logs=logs, tell=told.append) as catalog:
            first = catalog.record(an_outcome(), b"one")
            own_postgres.stop()
            second = catalog.record(an_outcome(), b"two")
            third = catalog.record(an_outcome(log_digest=first.log_digest))
            finding = catalog.record_finding(a_finding(evidence=(first.id, third.id)))
            assert catalog.log(second.log_digest) == b"two"
            with pytest.raises(CatalogUnreachable):
                catalog.outcomes()
        assert waiting(logs) == ["finding", "outcome", "outcome"]
        assert len(told) == 1
        assert f"kept in {logs}/unsent-" in told[0]

        with pytest.raises(CatalogUnreachable):
            Catalog(url, logs=logs, tell=told.append)
        assert len(waiting(logs)) == 3

        own_postgres.start()
        with Catalog(url, logs=logs, tell=told.append) as catalog:
            assert list(catalog.documents()) == [first, second, third]
            assert catalog.log(second.id) == b"two"
            assert catalog.finding(finding.id) == finding
        assert waiting(logs) == []
        assert told[1].startswith("3 outcomes and findings that were kept in")
        with Catalog(url, logs=logs, tell=told.append):
            assert len(told) == 2


def test_a_server_that_dies_in_mid_sweep_loses_nothing(own_postgres, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from buildvm_nb.catalog.store import Catalog\n"
        "from buildvm_nb.model.outcome import Outcome\n"
        "outcome = Outcome.model_validate_json(sys.argv[4])\n"
        "tell = lambda text: print(text, file=sys.stderr)\n"
        "with Catalog(sys.argv[2], logs=Path(sys.argv[3]), tell=tell) as catalog:\n"
        "    for number in range(60):\n"
        "        one = outcome.model_copy(update={'id': f'ID{number:02}'})\n"
        "        print(catalog.record(one, b'log %d' % number).id, flush=True)\n"
    )
    with own_postgres.database() as url:
        argv = [str(ROOT), url, str(tmp_path / "logs"), an_outcome().model_dump_json()]
        sweep = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = [sweep.stdout.readline().strip() for _ in range(5)]
        own_postgres.stop()
        out, err = sweep.communicate(timeout=600)
        assert sweep.returncode == 0, err
        assert err.count("\n") == 1 or "kept in" in err
        own_postgres.start()

        told = []
        with Catalog(url, logs=tmp_path / "logs", tell=told.append) as catalog:
            assert catalog.outcomes().id.tolist() == before + out.split()
            assert catalog.log("ID59") == b"log 59"
        assert len(told) == 1


def test_what_came_through_before_the_connection_broke_is_not_there_twice(place, tmp_path):
    told = []
    with Catalog(place, logs=tmp_path / "logs", tell=told.append) as catalog:
        outcome = catalog.record(an_outcome(), b"log")
        catalog.record_finding(a_finding(recorded_at="2026-01-01"))
        finding = catalog.record_finding(a_finding())
        for entry in (outcome, finding):
            catalog._unsent.keep(entry)

    with Catalog(place, logs=tmp_path / "logs", tell=told.append) as catalog:
        assert list(catalog.documents()) == [outcome]
        assert len(catalog.findings(current=False)) == 2
    assert waiting(tmp_path / "logs") == []
    assert len(told) == 1


def test_what_is_refused_stays_and_is_told_each_time(place, tmp_path):
    told = []
    with Catalog(place, logs=tmp_path / "logs") as catalog:
        outcome = catalog.record(an_outcome())
        catalog._unsent.keep(outcome.model_copy(update={"reason": "another"}))
        catalog._unsent.keep(a_finding(evidence=("01NONE",)))
        unsent = catalog._unsent.root
    (unsent / "outcome-01.json").write_text("{")

    for _ in range(2):
        Catalog(place, logs=tmp_path / "logs", tell=told.append).close()
    assert len(waiting(tmp_path / "logs")) == 3
    assert len(told) == 6
    assert f"refused: {unsent}/outcome-01.json: " in told[0]
    assert f"recorded already, with another content: {outcome.id}" in told[1]
    assert "no outcome 01NONE" in told[2]


def test_what_cannot_be_kept_here_either_is_an_error(own_postgres, tmp_path):
    logs = tmp_path / "logs"
    with own_postgres.database() as url:
        with Catalog(url, logs=logs) as catalog:
            own_postgres.stop()
            catalog._unsent.root.parent.mkdir()
            catalog._unsent.root.write_text("in the way")
            with pytest.raises(CatalogError, match=r"cannot keep .* until the server is back"):
                catalog.record(an_outcome())
        own_postgres.start()


def test_without_anybody_to_tell_it_is_a_warning(own_postgres, tmp_path):
    with own_postgres.database() as url:
        with Catalog(url, logs=tmp_path / "logs") as catalog:
            own_postgres.stop()
            with pytest.warns(UserWarning, match="what is recorded from here on is kept in"):
                catalog.record(an_outcome())
        own_postgres.start()


def test_the_program_says_on_standard_error_what_it_has_sent(
    postgres, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with postgres.database() as url:
        with Catalog(url) as catalog:
            catalog._unsent.keep(an_outcome())
        assert main(["catalog", "list", "--quiet", "--catalog", url]) == 0
    out, err = capsys.readouterr()
    assert "demo" in out
    assert err.startswith("buildvm: warning: 1 outcomes and findings that were kept in")
