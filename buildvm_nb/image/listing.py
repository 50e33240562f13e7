"""The images in the cache: listed, shown, removed."""

from collections.abc import Sequence

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.cache import Cache, file_digest
from buildvm_nb.image.rootfs import IMAGE_KIND, Image, load_image

__all__ = ["find_image", "list_images", "remove_image", "verify_image"]

_SHORTEST_KEY = 4


def list_images(cache: Cache) -> tuple[Image, ...]:
    """List the images in the cache.

    Parameters
    ----------
    cache : Cache
        Where to look.

    Returns
    -------
    tuple of Image
        Sorted by what was asked for.
    """
    images = [load_image(key, cache) for key, _ in cache.entries(IMAGE_KIND)]
    return tuple(sorted(images, key=lambda image: (str(image.spec), image.key)))


def find_image(name: str, cache: Cache) -> Image:
    """Find an image in the cache.

    Parameters
    ----------
    name : str
        What was asked for (``debian:bookworm,gcc``), or the first digits of its key or digest.
    cache : Cache
        Where to look.

    Returns
    -------
    Image
        The only one that fits.

    Raises
    ------
    UsageError
        If none fits, or more than one.
    """
    images = list_images(cache)
    wanted = ",".join([name.split(",", maxsplit=1)[0], *sorted(set(name.split(",")[1:]))])
    found = [image for image in images if str(image.spec) == wanted]
    if not found and len(name) >= _SHORTEST_KEY:
        found = [image for image in images if name == (image.key[: len(name)])]
        found = found or [image for image in images if name == image.digest[: len(name)]]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"more than one image is called {name}: {_names(found)}", hint="give one's key"
        )
    raise UsageError(
        f"no such image in the cache: {name}; there is {_names(images) or 'none'}",
        hint=f"make it: buildvm image build {name}" if ":" in name else "",
    )


def verify_image(image: Image) -> None:
    """Make sure that an image's file is what was made.

    Parameters
    ----------
    image : Image
        One that is in the cache.

    Raises
    ------
    HostError
        If the file's digest is another one.
    """
    if (seen := file_digest(image.path)) != image.digest:
        raise HostError(
            f"image {image.spec} is damaged: its digest is {seen}, it was made with {image.digest}",
            hint=f"buildvm image rm {image.key[:12]}, then make it again",
        )


def remove_image(name: str, cache: Cache) -> Image:
    """Remove an image from the cache.

    Parameters
    ----------
    name : str
        As for `find_image`.
    cache : Cache
        Where it is.

    Returns
    -------
    Image
        The one that was removed; its file is gone.

    Raises
    ------
    UsageError
        If none fits, or more than one.
    """
    image = find_image(name, cache)
    cache.remove(IMAGE_KIND, image.key)
    return image


def _names(images: Sequence[Image]) -> str:
    return ", ".join(f"{image.spec} ({image.key[:12]})" for image in images)
