"""``buildvm image`` and ``buildvm kernels``: what machines boot from."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.completion import complete_kernel
from buildvm_nb.cli.machine_options import choose_image
from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import write_fields, write_json, write_line, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from buildvm_nb.image import Image

__all__ = ["IMAGE_COMMANDS", "kernels"]

_SHORT = 12
_MIB = 2**20

ImageName = Annotated[
    str, typer.Argument(metavar="IMAGE", help="What was asked for, or the start of its key.")
]


@command(
    "build",
    examples=(
        "buildvm image build debian:bookworm",
        "buildvm image build debian:trixie,gcc,make",
        "buildvm image build debian:bookworm --package python3 --package openssl",
    ),
)
def build(
    session: Session,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="debian:SUITE[,PACKAGE…]")],
    package: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Add a package; repeatable.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Package mirror, such as a dated archive.")
    ] = None,
) -> None:
    """Make a root file system, unless it is in the cache."""
    from buildvm_nb.image import build_image
    from buildvm_nb.model.machine import ImageSpec

    spec = choose_image(image, package, mirror) or ImageSpec()
    _show(session, build_image(spec, session.cache(), session.progress()))


@command("list", examples=("buildvm image list", "buildvm image list --json"))
def list_(session: Session) -> None:
    """List the root file systems in the cache."""
    from buildvm_nb.image import list_images

    images = list_images(session.cache())
    if session.as_json:
        write_json([_plain(image) for image in images])
        return
    rows = [
        (image.spec, image.key[:_SHORT], image.size // _MIB, len(image.packages), _made(image))
        for image in images
    ]
    write_table(("image", "key", "MiB ", "packages ", "archive as of"), rows)


@command("show", examples=("buildvm image show debian:bookworm",))
def show(
    session: Session,
    image: ImageName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the file and compare its digest.")
    ] = False,
) -> None:
    """Show how a root file system was made.

    From which mirrors, as of which dates, with which version of each package.
    """
    from buildvm_nb.image import find_image, verify_image

    found = find_image(image, session.cache())
    if verify:
        verify_image(found)
    _show(session, found)
    if not session.as_json:
        write_line()
        write_table(("package", "version"), sorted(found.packages.items()))


@command("rm", examples=("buildvm image rm debian:bookworm",))
def rm(
    session: Session,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE…", help="Names, or starts of their keys.")
    ],
) -> None:
    """Remove root file systems from the cache.

    They can be made again.
    """
    from buildvm_nb.image import remove_image

    cache = session.cache()
    for name in images:
        gone = remove_image(name, cache)
        session.note(f"removed {gone.spec} ({gone.key[:_SHORT]}), {gone.size // _MIB} MiB")


IMAGE_COMMANDS: tuple[Command, ...] = (build, list_, show, rm)


@command(
    "kernels",
    examples=(
        "buildvm kernels",
        "buildvm kernels --fetch debian:bookworm --fetch debian:bullseye",
        "buildvm kernels --fetch all",
    ),
)
def kernels(
    session: Session,
    fetch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|all",
            autocompletion=complete_kernel,
            help="Fetch this kernel first; repeatable.",
        ),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="With --fetch: take a newer version if there is one.")
    ] = False,
) -> None:
    """List the kernels that guests can run, and fetch them."""
    from buildvm_nb.image import DEBIAN_KERNELS, fetch_kernel, list_kernels

    if refresh and not fetch:
        raise UsageError("--refresh says nothing without --fetch")
    cache, wanted = session.cache(), list(fetch or ())
    if "all" in wanted:
        wanted = [*DEBIAN_KERNELS, *(name for name in wanted if name != "all")]
    for name in dict.fromkeys(wanted):
        fetch_kernel(name, cache, session.progress(), refresh=refresh)
    listings = list_kernels(cache)
    if session.as_json:
        write_json([vars(listing) for listing in listings])
        return
    rows = [
        (listing.name, listing.release, listing.version, "yes" if listing.cached else "no")
        for listing in listings
    ]
    write_table(("kernel", "release", "package version", "cached"), rows)


def _show(session: Session, image: "Image") -> None:
    if session.as_json:
        write_json(_plain(image))
        return
    write_fields(
        [
            ("image", str(image.spec)),
            ("key", image.key),
            ("digest", image.digest),
            ("file", str(image.path)),
            ("size", f"{image.size // _MIB} MiB, {len(image.packages)} packages"),
            ("mirrors", "\n".join(image.mirrors)),
            ("as of", _made(image)),
            ("made by", f"mmdebstrap {image.mmdebstrap}"),
        ]
    )


def _made(image: "Image") -> str:
    return ", ".join(f"{suite} {date[:10]}" for suite, date in image.release_dates.items())


def _plain(image: "Image") -> dict[str, Any]:
    spec = {"spec": image.spec.model_dump(mode="json"), "path": str(image.path)}
    return {"image": str(image.spec), **vars(image), **spec}
