"""``buildvm guix``: Guix's secret service, as client and as server."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import write_json, write_table
from buildvm_nb.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildvm_nb.guix.secretfiles import SecretFile

__all__ = ["GUIX_COMMANDS"]

_FORMS = "tcp:HOST:PORT|unix:PATH|vsock:CID:PORT|port:DEVICE"


@command(
    "send-secrets",
    examples=(
        "buildvm guix send-secrets /etc/guix/virtual-build-machines/vm --to unix:/run/vm.sock",
        "buildvm guix send-secrets secrets --to tcp:127.0.0.1:11004",
        "buildvm guix send-secrets secrets --to vsock:3:1004 --retries 10",
    ),
)
def send(
    session: Session,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Stands for the machine's root directory.")
    ],
    to: Annotated[str, typer.Option(metavar=_FORMS, help="Where the machine waits.")],
    retries: Annotated[
        int, typer.Option(metavar="N", min=0, help="Further tries to connect, a second apart.")
    ] = 60,
    handshake_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for the greeting.")
    ] = 180,
) -> None:
    """Send files to a machine that waits for its secrets.

    DIR/etc/guix/acl becomes /etc/guix/acl there, with its permissions. Machines of Guix System
    wait on port 1004 when they boot. The protocol has no acknowledgement: what is listed was sent.
    """
    from buildvm_nb.guix.endpoint import Endpoint
    from buildvm_nb.guix.secrets import ClientPatience, send_secrets

    endpoint = Endpoint.parse(to)
    _warn(session, endpoint.warning())
    patience = ClientPatience(retries=retries, handshake_timeout_s=handshake_timeout)
    with session.progress().task(f"send secrets to {endpoint}"):
        files = send_secrets(directory, endpoint, patience)
    _show(session, files)


@command(
    "receive-secrets",
    examples=(
        "buildvm guix receive-secrets --on port:/dev/virtio-ports/secrets --into /",
        "buildvm guix receive-secrets --on vsock:any:1004 --into / --timeout 60",
        "buildvm guix receive-secrets --on unix:secrets.sock --into received",
    ),
)
def receive(
    session: Session,
    on: Annotated[str, typer.Option(metavar=_FORMS, help="Where to wait.")],
    into: Annotated[
        Path,
        typer.Option(metavar="DIR", help="What the names, all absolute, are below; / for all."),
    ],
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for a client.")
    ] = 60,
) -> None:
    """Wait for one client and take the files that it sends.

    All of them are there afterwards, or none. Links are never followed, old files are replaced,
    and a second client is refused.
    """
    from buildvm_nb.guix.endpoint import Endpoint
    from buildvm_nb.guix.secrets import ServerPatience, receive_secrets

    endpoint = Endpoint.parse(on)
    _warn(session, endpoint.warning())
    with session.progress().task(f"wait for secrets at {endpoint}"):
        files = receive_secrets(endpoint, into, ServerPatience(client_timeout_s=timeout))
    _show(session, files)


def _warn(session: Session, warning: str) -> None:
    if warning:
        session.note(f"warning: {warning}")


def _show(session: Session, files: "Iterable[SecretFile]") -> None:
    if session.as_json:
        write_json([asdict(file) for file in files])
        return
    rows = [(file.name, file.size, f"{file.mode & 0o7777:04o}") for file in files]
    write_table(("file", "bytes ", "mode "), rows)


GUIX_COMMANDS: tuple[Command, ...] = (send, receive)
"""What ``buildvm guix`` has."""
