"""Every notebook is executed as it is, with a catalog of its own, so that all is really run."""

import tempfile
from pathlib import Path

import pytest

collect_ignore = ["batch.ipynb"]  # it needs parameters: tests/notebooks gives them
_LONG = {"cpu.ipynb", "forecast.ipynb", "kernels.ipynb", "time-trap.ipynb"}
"""They take half a minute to a minute each, and continuous integration executes them."""
_CATALOG = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_collection_modifyitems(config, items):
    # nbval would measure the coverage of kernels, and loses that of the tests by it
    config.option.cov_source = None
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.name != "catalog.ipynb":
            item.add_marker(pytest.mark.vm)
        if item.path.parent == here and item.path.name in _LONG:
            item.add_marker(pytest.mark.long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Have the kernel, which starts with a notebook's first cell, inherit an empty catalog."""
    notebook = item.parent
    is_first = _CATALOG not in notebook.stash
    if is_first:
        notebook.stash[_CATALOG] = tempfile.TemporaryDirectory(prefix="buildvm-notebook-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILDVM_CATALOG", f"{notebook.stash[_CATALOG].name}/catalog.sqlite")
        result = yield
    if is_first:
        notebook.addfinalizer(notebook.stash[_CATALOG].cleanup)
    return result
