"""Claims against findings: agreement to the second, contradictions and gaps told apart."""

import pytest

from buildvm_nb.model.case import Case, Claim
from buildvm_nb.model.claims import Agreement, claim_agrees, describe_claim
from buildvm_nb.model.finding import Finding

CASE = {"id": "a", "steps": [{"name": "test", "run": "x"}]}
BEGIN = ("2018-11-28T15:28:57Z", "2018-11-28T15:28:58Z")
END = ("2021-11-27T15:28:57Z", "2021-11-27T15:28:58Z")


def finding(kind, **fields):
    known = {"case": Case.parse(CASE), "summary": "as shown", "confidence": 0.9}
    return Finding.parse(known | {"kind": kind} | fields)


def boundary(last_before, first_after, *, becomes_good, is_exact=True):
    before, after = ("failed", "passed") if becomes_good else ("passed", "failed")
    known = {"axis": "date", "before": before, "after": after, "is_exact": is_exact}
    return known | {"last_before": last_before, "first_after": first_after}


def trap(begin=BEGIN, end=END, *, is_exact=True, **fields):
    bounds = []
    window = {}
    if begin:
        bounds.append(boundary(*begin, becomes_good=True, is_exact=is_exact))
        window["passes_from"] = begin[1]
    if end:
        bounds.append(boundary(*end, becomes_good=False, is_exact=is_exact))
        window["passes_until"] = end[0]
    span = {"studied_from": "2010-01-01", "studied_until": "2041-01-01"}
    shown = {"axis": "date", "boundaries": bounds, "windows": [window]} | span
    return finding("time-trap", **(shown | fields))


def window(first=BEGIN[1], last=END[0], **fields):
    ends = {"passes_from": first, "passes_until": last}
    known = {name: end for name, end in ends.items() if end}
    return Claim.parse({"kind": "time-trap"} | known | fields)


def verdict(claim, shown):
    check = claim_agrees(claim, shown)
    assert bool(check.why) is (check.agreement is not Agreement.AGREES)
    return check.agreement.value, "; ".join(check.why)


def test_a_window_agrees_where_both_ends_are_the_same_second():
    assert verdict(window(), trap()) == ("agrees", "")


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (
            window(last="2021-11-27T15:28:58Z"),
            "last second that passes: claimed 2021-11-27T15:28:58Z, shown 2021-11-27T15:28:57Z",
        ),
        (
            window(first="2018-11-28T15:28:57Z"),
            "first second that passes: claimed 2018-11-28T15:28:57Z, shown 2018-11-28T15:28:58Z",
        ),
        (
            window(first=None),
            "first second that passes: claimed none, shown 2018-11-28T15:28:58Z",
        ),
        (window(last=None), "last second that passes: claimed none, shown 2021-11-27T15:28:57Z"),
    ],
)
def test_a_second_more_or_less_or_an_end_left_out_is_a_contradiction(claim, told):
    assert verdict(claim, trap()) == ("disagrees", told)


def test_an_end_that_is_not_there_is_a_contradiction():
    told = "first second that passes: claimed 2018-11-28T15:28:58Z, shown none"
    assert verdict(window(), trap(begin=None)) == ("disagrees", told)


def test_a_bracket_does_not_prove_a_second_but_may_refute_it():
    bracket = trap(None, ("2021-11-27T10:00:00Z", "2021-11-27T20:00:00Z"), is_exact=False)
    agreement, why = verdict(window(None), bracket)
    assert agreement == "cannot tell"
    assert "only between 2021-11-27T10:00:00Z and 2021-11-27T19:59:59Z" in why
    assert verdict(window(None, "2021-11-27T20:00:00Z"), bracket)[0] == "disagrees"
    assert verdict(window(None, "2021-11-27T09:59:59Z"), bracket)[0] == "disagrees"


def test_a_day_is_proven_by_a_bracket_within_it_and_refuted_by_another_day():
    bracket = trap(None, ("2021-11-27T10:00:00Z", "2021-11-27T20:00:00Z"), is_exact=False)
    assert verdict(window(None, "2021-11-27", resolution_s=86_400), bracket)[0] == "agrees"
    assert verdict(window(None, "2021-11-29", resolution_s=86_400), bracket)[0] == "disagrees"
    assert verdict(window(None, "2021-11-27T15:00:00Z", resolution_s=60), bracket)[0] == (
        "cannot tell"
    )


def test_a_bracket_at_the_beginning_of_a_window_counts_its_later_end():
    bracket = trap(("2018-11-28T00:00:00Z", "2018-11-28T00:00:30Z"), None, is_exact=False)
    for second, agreement in ((0, "disagrees"), (1, "agrees"), (30, "agrees"), (31, "agrees")):
        claim = window(f"2018-11-28T00:00:{second:02}Z", None, resolution_s=31)
        if second == 0:
            claim = claim.model_copy(update={"resolution_s": 1})
        assert verdict(claim, bracket)[0] == agreement


def test_windows_that_are_not_claimed_contradict_even_if_the_claimed_one_is_there():
    year = ("2018-12-31T23:59:59Z", "2019-01-01T00:00:00Z")
    after = ("2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z")
    shown = trap(
        boundaries=[boundary(*year, becomes_good=False), boundary(*after, becomes_good=True)],
        windows=[{"passes_until": year[0]}, {"passes_from": after[1]}],
    )
    both = [{"passes_until": year[0]}, {"passes_from": after[1]}]
    assert verdict(Claim.parse({"kind": "time-trap", "windows": both}), shown)[0] == "agrees"
    agreement, why = verdict(window(None, year[0]), shown)
    assert agreement == "disagrees"
    assert why.startswith("it passes in 2 windows, not in 1: passes until 2018-12-31T23:59:59Z and")


@pytest.mark.parametrize(
    "span",
    [
        {"studied_from": "2018-11-28T15:28:58Z"},
        {"studied_until": "2021-11-27T15:28:57Z"},
        {"studied_from": None, "studied_until": None},
    ],
)
def test_a_claim_that_reaches_beyond_what_was_studied_cannot_be_told(span):
    agreement, why = verdict(window(), trap(**span))
    assert agreement == "cannot tell"
    assert "beyond what was studied" in why


def test_a_claim_without_an_instant_or_a_finding_without_repeats_proves_nothing():
    assert verdict(Claim(kind="time-trap"), trap()) == (
        "cannot tell",
        "the claim names no instant",
    )
    assert verdict(window(), trap(confidence=0)) == ("cannot tell", "no repeated run confirms it")


def test_another_kind_contradicts_and_an_undetermined_finding_says_nothing():
    assert verdict(window(), finding("sound")) == ("disagrees", "it is not time-trap but sound")
    assert verdict(Claim(kind="sound"), trap())[0] == "disagrees"
    agreement, why = verdict(Claim(kind="always-failing"), finding("undetermined", confidence=0))
    assert (agreement, why) == ("cannot tell", "the finding is undetermined: as shown")


@pytest.mark.parametrize("kind", ["flaky", "always-failing", "sound"])
def test_what_is_flaky_fails_always_or_never_agrees_with_its_like(kind):
    assert verdict(Claim.parse({"kind": kind}), finding(kind))[0] == "agrees"


def test_the_line_of_the_log_must_be_the_one_that_is_claimed():
    claim = Claim(kind="always-failing", evidence="ValueError: not  sure")
    fields = {"failing_line": "E   ValueError: not sure how"}
    assert verdict(claim, finding("always-failing", **fields))[0] == "agrees"
    agreement, why = verdict(claim, finding("always-failing", failing_line="MemoryError"))
    assert agreement == "cannot tell"
    assert "'MemoryError'" in why


CPUS = {"passing_cpus": ["Nehalem", "max"], "failing_cpus": ["core2duo"], "features": ["sse4.2"]}


@pytest.mark.parametrize(
    ("claimed", "agreement", "told"),
    [
        ({"failing_cpus": ["core2duo"], "passing_cpus": ["max"]}, "agrees", ""),
        ({"failing_cpus": ["core2duo"], "features": ["sse4.2"]}, "agrees", ""),
        (
            {"failing_cpus": ["Nehalem"], "passing_cpus": ["Haswell"]},
            "disagrees",
            "it is claimed to fail on Nehalem, and passes there",
        ),
        (
            {"passing_cpus": ["core2duo"]},
            "disagrees",
            "it is claimed to pass on core2duo, and fails there",
        ),
        (
            {"passing_cpus": ["Haswell"]},
            "cannot tell",
            "it was not tried on Haswell, or gave no verdict there",
        ),
        ({"features": ["avx"]}, "disagrees", "claimed to be decided by avx, shown sse4.2"),
    ],
)
def test_cpus_and_features_must_be_those_that_were_tried(claimed, agreement, told):
    claim = Claim.parse({"kind": "cpu-dependent"} | claimed)
    assert verdict(claim, finding("cpu-dependent", axis="cpu", **CPUS)) == (agreement, told)


def test_features_may_be_needed_or_harmful_and_their_order_does_not_matter():
    claim = Claim(kind="cpu-dependent", features=("b", "a"))
    for name in ("features_needed", "features_harmful"):
        shown = finding("cpu-dependent", **(CPUS | {"features": [], name: ["a", "b"]}))
        assert verdict(claim, shown)[0] == "agrees"
    none = finding("cpu-dependent", **(CPUS | {"features": []}))
    assert verdict(claim, none)[0] == "cannot tell"


def test_a_trap_that_springs_on_some_cpus_only_must_be_claimed_as_such():
    pair = trap(passing_cpus=["core2duo"], failing_cpus=["Haswell"], features=["avx2"])
    cpus = {"passing_cpus": ["core2duo"], "failing_cpus": ["Haswell"]}
    assert verdict(window(**cpus), pair)[0] == "agrees"
    assert verdict(window(), pair) == ("disagrees", "it springs on some CPUs only: Haswell")
    turned = {"passing_cpus": ["Haswell"], "failing_cpus": ["core2duo"]}
    assert verdict(window(**turned), pair)[0] == "disagrees"
    assert verdict(window(**cpus), trap())[0] == "cannot tell"


def test_kernels_are_compared_on_both_sides_of_the_boundary():
    shown = finding(
        "kernel-dependent",
        axis="kernel",
        passing_kernels=["debian:sid"],
        failing_kernels=["debian:bookworm"],
    )
    both = {"failing_kernels": ["debian:bookworm"], "passing_kernels": ["debian:sid"]}
    assert verdict(Claim.parse({"kind": "kernel-dependent"} | both), shown)[0] == "agrees"
    turned = {"passing_kernels": ["debian:bookworm"]}
    assert verdict(Claim.parse({"kind": "kernel-dependent"} | turned), shown)[0] == "disagrees"


def test_varying_output_must_vary_with_the_same_axis_in_the_same_files():
    shown = finding("output-varies", axis="date", varying_files=["a.txt"])
    claim = Claim(kind="output-varies", axis="date", varying_files=("a.txt",))
    assert verdict(claim, shown)[0] == "agrees"
    assert verdict(claim.model_copy(update={"axis": "cpu"}), shown)[0] == "disagrees"
    assert verdict(claim.model_copy(update={"varying_files": ("b",)}), shown)[0] == "disagrees"


def test_a_claim_is_told_in_a_line():
    assert describe_claim(window(None)) == "time-trap: passes until 2021-11-27T15:28:57Z"
    claim = Claim(kind="cpu-dependent", failing_cpus=("core2duo",), features=("sse4.2",))
    assert describe_claim(claim) == "cpu-dependent: fails on core2duo, decided by sse4.2"
    assert describe_claim(Claim(kind="sound")) == "sound"
