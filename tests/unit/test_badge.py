"""``scripts/badge``: README.md's link to Binder follows from the repository's address."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = "https://mybinder.org/v2/{}/HEAD?urlpath=lab/tree/notebooks/tour.ipynb"


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the script reads, its repository's address not yet set."""
    (tmp_path / "scripts").mkdir()
    for name in ("README.md", "scripts/badge"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return tmp_path


def badge(checkout, *words, address=None):
    if address is not None:
        text = f"[project]\n[project.urls]\nRepository = {address!r}\n"
        (checkout / "pyproject.toml").write_text(text)
    argv = [sys.executable, checkout / "scripts/badge", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def link(checkout):
    (line,) = (
        line for line in (checkout / "README.md").read_text().splitlines() if "![Binder]" in line
    )
    return line.removesuffix(")").rpartition("](")[2]


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("https://github.com/owner/a.name", "gh/owner/a.name"),
        ("https://github.com/owner/name.git", "gh/owner/name"),
        ("https://gitlab.com/group/sub/name/", "gl/group%2Fsub%2Fname"),
        ("https://git.example/~me/name.git", "git/https%3A%2F%2Fgit.example%2F~me%2Fname.git"),
    ],
)
def test_the_badge_launches_the_repository_that_is_set(checkout, address, place):
    assert badge(checkout, address=address).returncode == 0
    assert link(checkout) == PLACE.format(place)
    assert badge(checkout, "--check").returncode == 0


def test_without_an_address_the_badge_leads_to_what_to_do(checkout):
    assert badge(checkout, address="https://github.com/owner/name").returncode == 0
    (checkout / "pyproject.toml").write_text("[project]\n")
    assert badge(checkout).returncode == 0
    page, _, heading = link(checkout).partition("#")
    text = (ROOT / page).read_text()
    assert f"## {heading.capitalize()}\n" in text
    assert "scripts/badge" in text.partition(f"## {heading.capitalize()}\n")[2]


def test_a_stale_badge_is_told(checkout):
    told = badge(checkout, "--check", address="https://github.com/owner/name")
    assert told.returncode == 1
    assert "mybinder.org/v2/gh/owner/name" in told.stderr
    assert link(checkout) == link(ROOT)


@pytest.mark.parametrize("address", ["git@github.com:owner/name.git", "https://github.com", "here"])
def test_what_is_no_address_is_refused(checkout, address):
    told = badge(checkout, address=address)
    assert told.returncode == 1
    assert "expected https://HOST/PATH" in told.stderr


def test_the_badge_of_this_checkout_is_right():
    assert badge(ROOT, "--check").returncode == 0
