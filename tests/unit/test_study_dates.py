from datetime import UTC, datetime, timedelta

from buildvm_nb.model.finding import Hint, HintKind
from buildvm_nb.study.dates import (
    dates_in_logs,
    explain_boundary,
    hint_within,
    validities_among,
    worth_revealing,
)

ENDS = datetime(2021, 11, 27, 15, 28, 58, tzinfo=UTC)
SECOND = int(ENDS.timestamp())


def hint(kind=HintKind.CERTIFICATE_ENDS, *, at=ENDS, path="tests/a.pem"):
    return Hint(kind=kind, path=path, instant=at, why="something")


def test_an_end_explains_a_failure_from_its_second_or_the_next_one_on():
    for first_after in (SECOND, SECOND + 1):
        assert explain_boundary([hint()], first_after, becomes_good=False) == hint()
    for first_after in (SECOND - 1, SECOND + 2):
        assert explain_boundary([hint()], first_after, becomes_good=False) is None


def test_an_end_explains_no_recovery_and_a_beginning_no_failure():
    begins = hint(HintKind.CERTIFICATE_BEGINS)
    assert explain_boundary([hint()], SECOND, becomes_good=True) is None
    assert explain_boundary([begins], SECOND, becomes_good=False) is None
    assert explain_boundary([begins], SECOND, becomes_good=True) == begins


def test_the_most_telling_hint_is_the_cause():
    told = [
        hint(HintKind.CALENDAR, path=""),
        hint(HintKind.DATE_CONSTANT),
        hint(HintKind.OUTPUT_DATE, path=""),
        hint(path="vendor/deep/below/a.pem"),
        hint(path="src/tests/a.pem"),
    ]
    for expected in reversed(told):
        found = explain_boundary(told, SECOND, becomes_good=False)
        assert found == expected
        told.remove(expected)


def test_what_lies_within_a_wide_change_is_told_where_it_is_one_instant():
    wide = (SECOND - 3600, SECOND + 3600)
    known = [hint(), hint(path="b.pem"), hint(HintKind.DATE_CONSTANT, at=ENDS + timedelta(1 / 48))]
    assert hint_within(known, *wide, becomes_good=False) == hint(path="tests/a.pem")
    assert hint_within(known, *wide, becomes_good=True) is None
    assert hint_within(known, SECOND + 1, SECOND + 9, becomes_good=False) is None
    known.append(hint(at=ENDS + timedelta(seconds=9)))
    assert hint_within(known, *wide, becomes_good=False) is None


def test_the_command_itself_is_no_hint():
    log = "==> test: test $(date +%s) -lt 1638026938\nexpired at 2020-05-01T10:00:00Z\n"
    found = {one.instant for one in dates_in_logs([log])}
    assert datetime(2020, 5, 1, 10, tzinfo=UTC) in found
    assert ENDS not in found


def test_windows_are_looked_for_behind_validities_the_nearest_first():
    near, far = ENDS + timedelta(days=1), ENDS + timedelta(days=900)
    overflow = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)
    hints = [
        hint(HintKind.ROLLOVER, at=overflow),
        hint(at=far),
        hint(HintKind.DATE_CONSTANT, at=ENDS),
        hint(at=near),
    ]
    assert worth_revealing(hints, ENDS) == [near, far]


def test_validities_of_what_a_case_only_uses_are_not_looked_behind():
    inside, beside = hint(path="tests/server.pem"), hint(path="lib/certifi/cacert.pem")
    later = beside.model_copy(update={"instant": ENDS + timedelta(days=1)})
    assert worth_revealing([inside, later], ENDS, ["lib"]) == [ENDS]


def test_a_validity_that_a_failing_run_named_is_likely():
    printed = dates_in_logs([f"certificate has expired at {ENDS:%Y-%m-%d %H:%M:%S}Z"])
    other = hint(at=ENDS + timedelta(days=900))
    assert validities_among([hint(), other], printed) == [ENDS]
    assert validities_among([other], printed) == []
