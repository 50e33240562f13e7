"""Verification without guests: a world of known laws answers, at the executor's far end."""

from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.cli.command import ExitStatus
from buildvm_nb.cli.curated import _told, verified_status
from buildvm_nb.errors import UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, Claim
from buildvm_nb.model.claims import ClaimCheck, claim_agrees
from buildvm_nb.model.finding import Axis
from buildvm_nb.model.outcome import Artifact, Outcome, StepRecord
from buildvm_nb.search import State
from buildvm_nb.study.dates import position
from buildvm_nb.study.diagnose import diagnose
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.questions import DEFAULT_AXES
from buildvm_nb.study.run import Trial
from buildvm_nb.study.verify import Verification, points_of, questions_of, spot_check, verify_case

FIRST = datetime(2019, 5, 1, 12, tzinfo=UTC)
LAST = datetime(2019, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class World(Executor):
    """Answers orders by a law: what the verdict is at an order's machine."""

    def __init__(self, law, made):
        self.law = law
        self.made = made
        self.orders = []

    def submit(self, function, order, *rest):  # noqa: ARG002 - the interface
        self.orders.append(order)
        future = Future()
        fields = {"verdict": self.law(order), "evidence": ""}
        if fields["verdict"] == "failed":
            fields["evidence"] = "E  it has expired"
        probing = order.probing.model_copy(update={"drift_s": 0.0 if order.probing.held else None})
        date = order.machine.date
        step = StepRecord(
            name="test",
            verdict=fields["verdict"],
            exit_status=0,
            duration_s=1.0,
            clock_started_at=date,
            clock_ended_at=date if order.probing.held else date + 2 * SECOND,
        )
        outcome = Outcome(
            case=order.case,
            machine=order.machine,
            probing=probing,
            steps=(step,),
            **self.made(order),
            artifacts=getattr(self.law, "artifacts", lambda _order: ())(order),
            **fields,
        )
        log = b"" if fields["verdict"] == "passed" else b"E  signed in 2018\nE  it has expired\n"
        future.set_result(Trial(outcome=outcome, log=log))
        return future


@pytest.fixture
def laboratory(tmp_path, made):
    """Open a laboratory in a world with a law."""
    opened = []

    def make(law, **fields):
        case = Case.parse({"id": "a-1", "steps": [{"name": "test", "run": "x"}]} | fields)
        opened.append(Catalog(tmp_path / f"{len(opened)}.sqlite"))
        world = World(law, made)
        means = Means(
            cache=Cache(tmp_path / "cache"),
            catalog=opened[-1],
            scheduler="tcp://elsewhere:8786",
            fresh=True,
        )
        return Laboratory(case, means, world, 2), world

    yield make
    for catalog in opened:
        catalog.close()


def month(order):
    """Pass in one month only."""
    span = timedelta(0) if order.probing.held else 2 * SECOND
    return "passed" if FIRST <= order.machine.date <= LAST - span else "failed"


def trap(first=FIRST, last=LAST, **fields):
    return Claim(kind="time-trap", passes_from=first, passes_until=last, **fields)


def told(check):
    return check.agreement.value, check.why


def test_the_points_of_a_trap_are_the_seconds_on_both_sides():
    points = points_of(trap())
    begin, end = position(FIRST), position(LAST)
    assert [(one.at, one.expected) for one in points] == [
        (begin - 1, State.BAD),
        (begin, State.GOOD),
        (end, State.GOOD),
        (end + 1, State.BAD),
    ]
    [good, bad] = points_of(trap(first=None, resolution_s=60))
    assert (good.at, bad.at) == (end - 59, end + 60)
    assert points_of(trap(first=None, last=datetime(9999, 1, 1, tzinfo=UTC))) == ()


def test_a_quick_check_of_a_trap_holds_the_clock_at_four_seconds(laboratory):
    lab, world = laboratory(month)
    check = spot_check(lab, trap(evidence="it has  expired"))
    assert told(check) == ("agrees", ())
    assert check.shown.startswith("fails at 2019-05-01T11:59:59Z; passes at 2019-05-01T12:00:00Z")
    assert len(world.orders) == 4
    assert all(order.probing.held for order in world.orders)


def test_a_quick_check_refutes_a_claim_that_is_off_by_a_second(laboratory):
    lab, _ = laboratory(month)
    agreement, why = told(spot_check(lab, trap(last=LAST + SECOND)))
    assert (agreement, why) == ("disagrees", ("it fails at 2019-06-01T12:00:01Z",))
    lab, _ = laboratory(month)
    agreement, why = told(spot_check(lab, trap(first=FIRST + SECOND)))
    assert (agreement, why) == ("disagrees", ("it passes at 2019-05-01T12:00:00Z",))


def test_machines_that_break_tell_nothing_and_are_asked_without_a_fork_too(laboratory):
    lab, world = laboratory(lambda _order: "error")
    check = spot_check(lab, trap())
    assert check.agreement == "cannot tell"
    assert len(check.why) == 4
    assert {order.probing.prepared_at is None for order in world.orders} == {True, False}
    with_broken_forks = lambda one: "error" if one.probing.prepared_at else month(one)  # noqa: E731
    lab, _ = laboratory(with_broken_forks)
    assert told(spot_check(lab, trap())) == ("agrees", ())


def test_a_trap_in_the_build_is_seen_although_forks_do_not_build(laboratory):
    def law(one):
        return "passed" if one.probing.prepared_at else month(one)

    steps = [{"name": "build", "run": "x"}, {"name": "test", "run": "x"}]
    lab, _ = laboratory(law, steps=steps)
    assert told(spot_check(lab, trap())) == ("agrees", ())


def test_a_failure_for_another_reason_does_not_bear_out_the_claim(laboratory):
    lab, _ = laboratory(month)
    agreement, why = told(spot_check(lab, trap(evidence="ImportError")))
    assert agreement == "cannot tell"
    assert "'ImportError', but says 'E  it has expired'" in why[0]


def test_any_line_of_the_log_may_bear_out_the_claim(laboratory):
    claim = trap(evidence="E signed in")
    lab, _ = laboratory(month)
    assert told(spot_check(lab, claim)) == ("agrees", ())
    lab, _ = laboratory(month, claim=claim.model_dump(exclude_defaults=True))
    finding = diagnose(lab, questions_of(claim))
    assert finding.failing_line == "E  signed in 2018"
    assert told(claim_agrees(claim, finding)) == ("agrees", ())


@pytest.mark.parametrize(
    ("passing", "failing", "expected"),
    [
        (("Haswell", "max"), ("core2duo",), ("agrees", ())),
        (("core2duo",), ("Haswell",), ("disagrees", ("it fails on core2duo",))),
    ],
)
def test_a_quick_check_of_cpus_runs_those_that_are_named(laboratory, passing, failing, expected):
    lab, world = laboratory(
        lambda one: "crashed" if one.machine.cpu == "core2duo" else "passed",
    )
    claim = Claim(kind="cpu-dependent", passing_cpus=passing, failing_cpus=failing)
    agreement, why = told(spot_check(lab, claim))
    assert (agreement, why[:1]) == expected
    assert [order.machine.cpu for order in world.orders] == [*passing, *failing]
    assert {order.machine.accelerator.value for order in world.orders} == {"tcg"}


def test_a_quick_check_of_a_trap_on_some_cpus_runs_it_on_one_of_them(laboratory):
    def law(one):
        return "failed" if month(one) == "failed" and one.machine.cpu == "Haswell" else "passed"

    claim = trap(first=None, passing_cpus=("core2duo",), failing_cpus=("Haswell",))
    lab, _ = laboratory(law)
    assert told(spot_check(lab, claim)) == ("agrees", ())
    lab, _ = laboratory(month)
    agreement, why = told(spot_check(lab, claim))
    assert (agreement, why) == ("disagrees", ("it fails on core2duo",))
    assert questions_of(claim).axes == (Axis.DATE, Axis.CPU)
    assert questions_of(claim).cpus == ("core2duo", "Haswell")


def test_a_quick_check_of_kernels_runs_those_that_are_named(laboratory):
    lab, _ = laboratory(lambda one: "passed" if one.machine.kernel == "debian:sid" else "failed")
    claim = Claim(
        kind="kernel-dependent",
        passing_kernels=("debian:sid",),
        failing_kernels=("debian:bookworm",),
    )
    assert told(spot_check(lab, claim)) == ("agrees", ())


def test_what_never_or_always_fails_is_run_at_both_dates_and_must_agree(laboratory):
    lab, _ = laboratory(lambda _order: "failed")
    assert told(spot_check(lab, Claim(kind="always-failing"))) == ("agrees", ())
    lab, _ = laboratory(lambda _order: "failed")
    assert spot_check(lab, Claim(kind="sound")).agreement == "disagrees"


def test_what_is_flaky_is_run_until_it_has_ended_in_both_ways(laboratory):
    lab, world = laboratory(lambda one: "failed" if one.probing.attempt == 2 else "passed")
    assert told(spot_check(lab, Claim(kind="flaky"))) == ("agrees", ())
    assert len(world.orders) == 3
    lab, _ = laboratory(lambda _order: "passed")
    agreement, why = told(spot_check(lab, Claim(kind="flaky")))
    assert (agreement, why) == ("cannot tell", ("8 of 8 runs passed: more may tell",))


def test_output_that_varies_is_compared_by_digest(laboratory):
    def law(_order):
        return "passed"

    law.artifacts = lambda order: (
        Artifact(path="a", digest=f"{order.machine.date.year:064d}", size_bytes=1),
        Artifact(path="b", digest="0" * 64, size_bytes=1),
    )
    claim = Claim(kind="output-varies", axis="date", varying_files=("a",))
    lab, _ = laboratory(law, artifacts=["a", "b"])
    assert told(spot_check(lab, claim)) == ("agrees", ())
    lab, _ = laboratory(law, artifacts=["a", "b"])
    both = claim.model_copy(update={"varying_files": ("a", "b")})
    assert told(spot_check(lab, both)) == ("disagrees", ("b does not vary",))


def test_the_whole_search_sees_a_short_window_because_the_claim_names_it(laboratory):
    lab, _ = laboratory(month)
    finding = diagnose(lab, questions_of(trap()))
    assert [(one.passes_from, one.passes_until) for one in finding.windows] == [(FIRST, LAST)]
    assert told(claim_agrees(trap(), finding)) == ("agrees", ())
    assert told(claim_agrees(trap(last=LAST - SECOND), finding))[0] == "disagrees"


def test_the_range_reaches_a_year_beyond_the_claim(laboratory):
    early, late = datetime(1999, 3, 1, tzinfo=UTC), datetime(2060, 3, 1, tzinfo=UTC)
    lab, _ = laboratory(lambda one: "passed" if early <= one.machine.date <= late else "failed")
    finding = diagnose(lab, questions_of(trap(early, late)))
    assert finding.studied_from <= datetime(1998, 3, 1, tzinfo=UTC)
    assert finding.studied_until >= datetime(2061, 3, 1, tzinfo=UTC)


def test_the_questions_follow_from_the_claim():
    assert questions_of(trap()).axes == (Axis.DATE,)
    assert questions_of(trap()).around == (FIRST, LAST)
    cpus = questions_of(Claim(kind="cpu-dependent", passing_cpus=("max",), failing_cpus=("a",)))
    assert (cpus.axes, cpus.cpus) == ((Axis.CPU,), ("max", "a"))
    kernels = questions_of(Claim(kind="kernel-dependent", passing_kernels=("debian:trixie",)))
    assert kernels.kernels[0] == "debian:trixie"
    assert "debian:bookworm" in kernels.kernels
    assert questions_of(Claim(kind="sound")).axes == DEFAULT_AXES


def test_a_case_without_a_claim_cannot_be_verified(tmp_path):
    case = Case.parse({"id": "a-1", "steps": [{"name": "test", "run": "x"}]})
    with pytest.raises(UsageError, match="claims nothing"):
        verify_case(case, Means(cache=Cache(tmp_path), catalog=None))


def result(agreement, trouble=""):
    check = ClaimCheck(agreement=agreement, claimed="", shown="")
    return Verification(case_id="a", check=check, is_quick=True, runs=0, trouble=trouble)


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([result("agrees")], ExitStatus.DONE),
        ([result("agrees"), result("cannot tell")], ExitStatus.NOT_PASSED),
        ([result("cannot tell"), result("cannot tell", "unavailable")], ExitStatus.UNAVAILABLE),
        ([result("cannot tell", "unavailable"), result("cannot tell", "machine")], 125),
        ([result("cannot tell", "machine"), result("disagrees")], ExitStatus.TROUBLE),
    ],
)
def test_a_disagreement_outweighs_trouble_and_trouble_weak_evidence(results, status):
    assert verified_status(results) == status


def test_a_result_is_told_in_a_line_with_what_was_claimed_and_shown():
    fields = {"claimed": "sound", "shown": "fails on max", "why": ("it fails on max",)}
    lines = [
        _told(result("agrees").model_copy(update={"check": ClaimCheck(agreement=one, **fields)}))
        for one in ("agrees", "disagrees", "cannot tell")
    ]
    assert lines == [
        "a: agrees (fails on max)",
        "a: disagrees (claimed sound, shown fails on max): it fails on max",
        "a: cannot tell (it fails on max)",
    ]


def test_a_test_that_dislikes_a_held_clock_is_located_without_one_and_that_is_told(laboratory):
    def law(one):
        if one.probing.held:
            return "passed" if one.probing.attempt % 2 else "failed"
        return "passed" if one.machine.date <= LAST - 2 * SECOND else "failed"

    lab, _ = laboratory(law)
    finding = diagnose(lab, questions_of(trap(first=None)))
    [boundary] = finding.boundaries
    assert not boundary.is_exact
    assert any("with a held clock do not end alike" in text for text in finding.assumptions)
