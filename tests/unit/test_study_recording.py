from pathlib import Path

import pytest

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import Case, ImageSpec, Step
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.study.cells import run_cell
from buildvm_nb.study.grid import Cell
from buildvm_nb.study.probe import Order, run_probe
from buildvm_nb.study.recording import unavailable
from buildvm_nb.study.trial import Setting, attempt, run_case


def test_what_is_recorded_of_a_source_that_is_gone_tells_the_way_out():
    error = SourceError("no wheels for lib", sought=("https://a", "https://b"), hint="loosen it")
    case = Case(
        id="lib-1", image=ImageSpec(base="debian:bookworm"), steps=[Step(name="test", run="true")]
    )
    outcome = unavailable(case, MachineSpec(), error)
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert outcome.reason == ("no wheels for lib (sought in https://a, https://b)\nHint: loosen it")


SPEC = MachineSpec(accelerator="tcg")


def case_of(**fields):
    return Case.parse({"id": "lib-1", "steps": [{"name": "test", "run": "true"}]} | fields)


def fill_a_disk(log):
    log.write(b"so far, so good\n")
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_a_full_disk_is_an_error_of_that_run_and_its_log_is_kept(tmp_path):
    setting = Setting(case=case_of(), cache=Cache(tmp_path))
    trial = attempt(setting, SPEC, fill_a_disk)
    assert trial.outcome.verdict is Verdict.ERROR
    assert "this host refused it: No space left on device" in trial.outcome.reason
    assert "MiB are free in the cache" in trial.outcome.reason
    assert b"so far, so good" in trial.log


@pytest.mark.parametrize("run", ["probe", "case", "cell"])
def test_what_the_system_refuses_while_sources_are_had_is_an_error_too(tmp_path, run):
    case = case_of(source={"kind": "local", "path": f"{'x' * 300}/y"})
    if run == "probe":
        trial = run_probe(Order(case=case, machine=SPEC), tmp_path, tmp_path)
    elif run == "case":
        trial = run_case(case, cache=Cache(tmp_path), base=tmp_path)
    else:
        trial = run_cell(Cell(index=0, case=case, machine=SPEC), tmp_path, tmp_path)
    assert trial.outcome.verdict is Verdict.ERROR
    assert "File name too long" in trial.outcome.reason
