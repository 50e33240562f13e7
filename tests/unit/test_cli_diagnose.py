"""``buildvm diagnose`` without guests: what it asks, what it refuses, how it tells runs."""

import json
from datetime import UTC, datetime

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.cli import main
from buildvm_nb.cli.command import ExitStatus
from buildvm_nb.cli.describe import Narrator
from buildvm_nb.cli.diagnose import judged_status
from buildvm_nb.cli.options import QuestionOptions
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Probing
from buildvm_nb.study.diagnose import _Diagnosis, look_ahead
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.questions import DEFAULT_AXES, Questions

CASE = 'schema = 1\nid = "demo"\n[[step]]\nname = "test"\nrun = "true"\n'
# with a scheduler, this host's accelerators are not asked
ELSEWHERE = ("--scheduler", "tcp://localhost:8786", "--dry-run")


@pytest.fixture
def diagnose(capsys, tmp_path, monkeypatch):
    """Call the command in this process: status, standard output, standard error."""
    monkeypatch.setenv("BUILDVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDVM_CATALOG", str(tmp_path / "catalog.sqlite"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.toml").write_text(CASE)

    def call(*words):
        return (main(["diagnose", *words]), *capsys.readouterr())

    return call


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def outcome_at(date, cpu="Haswell", *, commit=None, probing=None, **fields):
    document = {"id": "demo", "steps": [{"name": "test", "run": "true"}]}
    if commit:
        document["source"] = {"kind": "git", "url": "https://example.org/a", "commit": commit}
    spec = {key: fields.pop(key) for key in ("kernel", "cpu_count") if key in fields}
    machine = MachineSpec(date=date, cpu=cpu, **spec)
    fields = {"verdict": "passed", "duration_s": 2.04} | fields
    return Outcome(
        case=Case.parse(document), machine=machine, probing=probing or Probing(), **fields
    )


def test_what_is_left_out_is_the_diagnosis_own(cache):
    assert QuestionOptions().questions(cache) == Questions()


def test_every_question_can_be_asked(cache):
    options = QuestionOptions(
        axis=["kernel", "date", "cpu", "cores", "date"],
        first="2015",
        last="2030-06-01T12:00:00Z",
        resolution="1h",
        repeats=0,
        budget=50,
        no_hints=True,
        cpus="Westmere,Haswell,-avx2",
        kernels="debian:sid,debian:bullseye",
        cores="2,8",
    )
    assert options.questions(cache) == Questions(
        axes=("kernel", "date", "cpu", "cores"),
        first=datetime(2015, 1, 1, tzinfo=UTC),
        last=datetime(2030, 6, 1, 12, tzinfo=UTC),
        resolution_s=3600,
        repeats=0,
        budget=50,
        use_hints=False,
        cpus=("Westmere", "Haswell,-avx2"),
        kernels=("debian:sid", "debian:bullseye"),
        cores=(2, 8),
    )


def test_two_commits_ask_for_their_axis(cache):
    questions = QuestionOptions(good="v1", bad="main").questions(cache)
    assert (questions.axes, questions.good, questions.bad) == (("commit",), "v1", "main")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 1), ("30s", 30), ("1m", 60), ("1h", 3600), ("1d", 86_400)]
)
def test_a_resolution_is_a_time(cache, text, seconds):
    assert QuestionOptions(resolution=text).questions(cache).resolution_s == seconds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to build: no case and no source"),
        (("case.toml", "make"), "a case says itself what to run; got a command as well: make"),
        (("--local", "."), "no command: what is to be run in the source's directory?"),
        (("case.toml", "--axis", "time"), "--axis: unknown axis: 'time'; allowed: date, cpu"),
        (("case.toml", "--axis", "cpu", "--from", "2015"), "--from says nothing without --axis d"),
        (
            ("case.toml", "--axis", "date", "--cores", "2"),
            "--cores says nothing without --axis cores",
        ),
        (("case.toml", "--good", "v1"), "--good says nothing without --axis commit"),
        (("case.toml", "--axis", "commit", "--good", "v1"), "--axis commit needs both ends"),
        (("case.toml", "--from", "soon"), "--from: not a date: 'soon'"),
        (("case.toml", "--from", "2015,2016"), "--from: not one date with a whole second"),
        (("case.toml", "--from", "2030", "--to", "2015"), "the dates end before they begin"),
        (("case.toml", "--resolution", "0"), "--resolution: not a time: '0'; allowed: 1, 30s"),
        (("case.toml", "--resolution", "1y"), "--resolution: not a time: '1y'"),
        (("case.toml", "--date", "2020-01-01"), "--date fixes what --axis date varies"),
        (("case.toml", "--kernels", "sid"), "--kernels: unknown kernel: 'sid'"),
        (("case.toml", "--memory", "lots"), "--memory: not a size: 'lots'"),
        (("case.toml", "--timeout", "never"), "--timeout: not a time: 'never'"),
        (("case.toml", "--repeats", "-1"), "--repeats"),
        (("case.toml", "--markdown", "--json"), "give either --json or --markdown"),
        (("case.toml", "--scheduler", "localhost"), "not a scheduler's address: 'localhost'"),
    ],
    ids=str,
)
def test_a_wrong_request_exits_with_2_and_says_what_is_allowed(diagnose, words, message):
    status, out, err = diagnose(*words)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=str)
def test_a_source_that_cannot_be_had_exits_with_4(diagnose, tmp_path, options):
    source = '[source]\nkind = "git"\nurl = "./nowhere"\ncommit = "v1"\n'
    (tmp_path / "case.toml").write_text(CASE + source)
    status, out, err = diagnose("case.toml", "--accelerator", "tcg", *options)
    assert (status, out) == (ExitStatus.UNAVAILABLE, "")
    assert "nowhere" in err


def test_a_dry_run_tells_the_first_runs_and_makes_none(diagnose, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").write_text('EXPIRY = "2031-05-06"\n')
    words = ("--local", "tree", "--from", "2020", "--to", "2035", *ELSEWHERE, "--", "true")
    status, out, err = diagnose(*words)
    told = dict(line.split("  ", 1) for line in out.splitlines())
    assert status == 0, err
    assert told["axes"].strip() == "date, cpu, kernel, cores"
    assert told["dates"].strip() == "2020-01-01T00:00:00Z to 2035-01-01T00:00:00Z"
    assert told["hints"].strip().endswith("dates in sources and packages")
    assert not told["hints"].strip().startswith("0 ")
    assert ", 1 virtual, 1024 MiB, kernel debian:bookworm, tcg, debian:bookworm" in out
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert len(catalog.outcomes()) == len(catalog.findings()) == 0
    document = json.loads(diagnose("--json", *words)[1])
    assert document["axes"] == ["date", "cpu", "kernel", "cores"]
    assert document["dates"] == ["2020-01-01T00:00:00Z", "2035-01-01T00:00:00Z"]
    assert document["hints"] >= 1
    assert [machine["memory_mib"] for machine in document["machines"]] == [1024]


def test_fixed_options_hold_for_the_machines(diagnose):
    words = ("--memory", "2G", "--cpu", "Westmere", "--kernel", "debian:sid", "--cpu-count", "2")
    _, out, _ = diagnose("case.toml", *words, "--no-hints", "--json", *ELSEWHERE)
    (machine,) = json.loads(out)["machines"]
    assert (machine["memory_mib"], machine["cpu"]) == (2048, "Westmere")
    assert (machine["kernel"], machine["cpu_count"]) == ("debian:sid", 2)
    assert json.loads(out)["hints"] is None
    words = ("--axis", "cpu", "--date", "2020-05-05", "--accelerator", "auto")
    _, out, _ = diagnose("case.toml", *words, "--json", *ELSEWHERE)
    machines = json.loads(out)["machines"]
    assert {machine["date"] for machine in machines} == {"2020-05-05T00:00:00Z"}
    assert {machine["accelerator"] for machine in machines} == {"tcg"}
    assert len({machine["cpu"] for machine in machines}) == 2  # of that time and of today
    assert json.loads(out)["dates"] is None


def test_an_outlook_has_the_dates_of_the_diagnosis_itself(cache, tmp_path):
    case = Case.parse({"id": "demo", "steps": [{"name": "test", "run": "true"}]})
    questions = Questions(axes=DEFAULT_AXES, use_hints=False)
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        means = Means(cache=cache, catalog=catalog, base=tmp_path, scheduler="tcp://elsewhere:8786")
        own = _Diagnosis(Laboratory(case, means), questions, {})
        seen = look_ahead(case, questions, {}, means)
    assert seen.dates == questions.dates(own.own.date, own.today.date)
    assert seen.orders[-1].machine == own.today


def test_a_run_is_told_in_plain_words():
    narrator = Narrator()
    plain = outcome_at("2020-01-01")
    assert narrator.describe(plain, is_known=False) == "2020-01-01, Haswell: passed, 2.0 s"
    probing = Probing(prepared_at="2015-01-01", held=True, attempt=2)
    held = outcome_at(
        "2021-11-27T15:28:58Z", probing=probing, verdict="failed", reason="test: exited with 1\n…"
    )
    assert narrator.describe(held, is_known=True) == (
        "2021-11-27T15:28:58Z, Haswell, in a fork, clock held, repetition 2: "
        "failed (test: exited with 1), from the catalog"
    )


def test_kernels_cores_and_commits_are_told_as_soon_as_they_vary():
    narrator = Narrator()
    first = outcome_at("2020-01-01", commit="a" * 40)
    assert narrator.describe(first, is_known=False).startswith("2020-01-01, Haswell: ")
    other = outcome_at("2020-01-01", commit="a" * 40, kernel="debian:sid")
    told = "2020-01-01, Haswell, kernel debian:sid: "
    assert narrator.describe(other, is_known=False).startswith(told)
    again = "2020-01-01, Haswell, kernel debian:bookworm: "
    assert narrator.describe(first, is_known=False).startswith(again)
    more = outcome_at("2020-01-01", commit="b" * 40, cpu_count=4)
    assert narrator.describe(more, is_known=False).startswith(
        "commit bbbbbbbbbbbb, 2020-01-01, Haswell, kernel debian:bookworm, 4 virtual CPUs: "
    )
    told = Narrator(tells_commits=True).describe(first, is_known=False)
    assert told.startswith("commit aaaaaaaaaaaa, 2020-01-01, Haswell: ")


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (("passed", "error"), ExitStatus.DONE),
        (("failed", "unavailable"), ExitStatus.DONE),
        (("timeout",), ExitStatus.DONE),
        (("unavailable", "unavailable"), ExitStatus.UNAVAILABLE),
        (("unavailable", "error"), ExitStatus.TROUBLE),
        (("error",), ExitStatus.TROUBLE),
        ((), ExitStatus.DONE),
    ],
)
def test_the_status_is_0_unless_no_run_said_anything(verdicts, status):
    assert judged_status(verdicts) is status
