"""A diagnosis from a notebook's panel, in real guests: cancelled, gone on with, concluded."""

import threading

import pytest

from buildvm_nb.catalog import Catalog
from buildvm_nb.model.case import Case
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.nb.study import DiagnosisPanel

pytestmark = pytest.mark.vm

LONG_S = 600.0
CASE = Case.parse(
    {
        "id": "tiny",
        "image": "debian:bookworm,python3",
        "limits": {"memory_mib": 512},
        "steps": [{"name": "test", "run": "test $(date +%s) -lt 1638026938"}],
    }
)


def test_a_cancelled_diagnosis_goes_on_where_it_was_and_shows_its_finding(cache, tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        panel = DiagnosisPanel(CASE, catalog=catalog, cache=cache, jobs=2, name="vm")
        for axis, box in panel.axes.items():
            box.value = axis is Axis.DATE
        panel.first.value, panel.last.value = "2021-11-27T15:28:55Z", "2021-11-27T15:29:00Z"
        panel.repeats.value = "0"

        came = threading.Event()
        panel._list.observe(lambda change: came.set() if change["new"] else None, "value")
        panel.start()
        assert came.wait(LONG_S)
        panel.cancel()
        assert panel.wait(LONG_S)
        assert panel.job.state == "cancelled"
        kept = set(catalog.outcomes()["id"])
        assert len(kept) >= 1

        panel.start()
        assert panel.wait(LONG_S)
        assert panel.error_html == ""
        assert panel.finding.kind is FindingKind.TIME_TRAP
        assert [one.first_after for one in panel.finding.boundaries] == ["2021-11-27T15:28:58Z"]
        assert kept <= {one.id for one in panel.outcomes}
        assert panel.known >= len(kept)
        assert "2021-11-27T15:28:58Z" in panel.result_html
        assert panel.picture_html.startswith("<svg")
        panel.close()
