import copy
import pickle

import pytest

import buildvm_nb.errors
from buildvm_nb.errors import (
    BuildVMError,
    ClockError,
    CommandFailed,
    MachineError,
    SchemaVersionError,
    SourceError,
)

CLASSES = [getattr(buildvm_nb.errors, name) for name in buildvm_nb.errors.__all__]
DATA = {
    SourceError: {"sought": ("https://a.example/", "https://b.example/")},
    MachineError: {"evidence": "Kernel panic - not syncing"},
    CommandFailed: {"exit_status": 2, "signal": None},
}


def data_for(kind):
    return next((data for base, data in DATA.items() if issubclass(kind, base)), {})


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("clone", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_every_class_survives_pickling_with_its_data_and_hint(kind, clone):
    data = data_for(kind)
    error = kind("what, the value seen, what was allowed", hint="the next step", **data)
    error.add_note("seen on the way")
    again = clone(error)
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.message == error.message
    assert again.hint == "the next step"
    assert again.__notes__ == ["seen on the way"]
    for name, value in data.items():
        assert getattr(again, name) == value


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_needs_no_more_than_a_message(kind):
    error = kind("it broke")
    assert str(error) == "it broke"
    assert error.hint == ""
    assert issubclass(kind, BuildVMError)


def test_the_hint_is_shown_on_a_line_of_its_own():
    assert str(BuildVMError("it broke", hint="mend it")) == "it broke\nHint: mend it"


def test_the_tree_is_as_drawn():
    drawn = buildvm_nb.errors.__doc__
    assert all(kind.__name__ in drawn for kind in CLASSES)
    assert issubclass(ClockError, MachineError)
    assert issubclass(SchemaVersionError, buildvm_nb.errors.CatalogError)
    assert not issubclass(CommandFailed, MachineError)
