from buildvm_nb.errors import SourceError
from buildvm_nb.model.case import Case, ImageSpec, Step
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.recording import unavailable


def test_what_is_recorded_of_a_source_that_is_gone_tells_the_way_out():
    error = SourceError("no wheels for lib", sought=("https://a", "https://b"), hint="loosen it")
    case = Case(
        id="lib-1", image=ImageSpec(base="debian:bookworm"), steps=[Step(name="test", run="true")]
    )
    outcome = unavailable(case, MachineSpec(), error)
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert outcome.reason == ("no wheels for lib (sought in https://a, https://b)\nHint: loosen it")
