import pytest

from buildvm_nb.host.cache import Cache
from buildvm_nb.image import build_image
from buildvm_nb.model.machine import ImageSpec


@pytest.fixture(scope="session")
def cache():
    """The user's own cache: what is in it already need not be fetched again."""
    return Cache()


@pytest.fixture(scope="session")
def image(cache):
    """A small image, made as root or as an ordinary user, whoever runs the tests."""
    return build_image(ImageSpec(base="debian:bookworm"), cache)
