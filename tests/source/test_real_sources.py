"""Real downloads from the registries and mirrors that this host is configured for."""

import os

import pytest

from buildvm_nb.errors import SourceError
from buildvm_nb.host.cache import Cache
from buildvm_nb.model.case import DebianBinarySource, DebianSource, PyPISource, WheelsSource
from buildvm_nb.source import fetch

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


def test_an_old_sdist_comes_with_digest_and_date(cache):
    fetched = fetch(PyPISource(name="requests-toolbelt", version="0.9.1"), cache)
    assert fetched.top == "requests-toolbelt-0.9.1"
    assert (fetched.tree / fetched.top / "tests").is_dir()
    assert fetched.record.digest == (
        "968089d4584ad4ad7c171454f0a5c6dac23971e9472521ea3b6d49d610aa6fc0"
    )
    assert fetched.record.dated_at.date().isoformat() == "2019-01-30"


def test_wheels_as_of_2024_have_no_dependency_from_later(cache):
    source = WheelsSource(requirements=("pytest==7.4.4",), as_of="2024-02-01")
    fetched = fetch(source, cache)
    assert fetched.record.version == (
        "iniconfig==2.0.0 packaging==23.2 pluggy==1.4.0 pytest==7.4.4"
    )
    assert (fetched.tree / "bin/pytest").exists()


def test_wheels_for_an_older_guest_have_what_its_python_needs(cache):
    source = WheelsSource(requirements=("pytest==7.4.4",), python="3.9", as_of="2024-02-01")
    assert "tomli==2.0.1" in fetch(source, cache).record.version.split()


def test_a_binary_package_is_unpacked_with_its_date(cache):
    fetched = fetch(DebianBinarySource(name="libpython3.11-testsuite"), cache)
    assert (fetched.tree / "usr/lib/python3.11/test/test_httplib.py").exists()
    assert fetched.record.version.startswith("3.11.2-")
    assert fetched.record.dated_at is not None
    again = DebianBinarySource(name="libpython3.11-testsuite", version=fetched.record.version)
    assert fetch(again, cache) == fetched


def test_a_package_that_is_not_there_is_unavailable(cache):
    for source in (
        DebianBinarySource(name="no-such-package-at-all"),
        DebianBinarySource(name="dash", version="0.0.1-1"),
        DebianSource(name="no-such-package-at-all"),
        PyPISource(name="requests-toolbelt", version="0.9.999"),
    ):
        with pytest.raises(SourceError) as caught:
            fetch(source, cache)
        assert caught.value.sought


def test_a_source_package_is_unpacked_and_no_younger_than_its_changelog(cache):
    try:
        fetched = fetch(DebianSource(name="hello"), cache)
    except SourceError as error:
        pytest.skip(f"not every mirror has it: {error.message}")
    assert (fetched.tree / fetched.top / "debian/rules").exists()
    latest = fetched.record.dated_at.timestamp()
    for path in fetched.tree.rglob("*"):
        assert os.lstat(path).st_mtime <= latest
