"""``buildvm guix``: Guix's secret service, and machines taken over from Guix."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.options import Command, command
from buildvm_nb.cli.output import write_json, write_line, write_new_file, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildvm_nb.guix.importing import ImportedMachine
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


@command(
    "import",
    examples=(
        "buildvm guix import /etc/config.scm --output build-vm.toml",
        "buildvm guix import 4711 --name old",
        "buildvm guix import 'qemu-system-x86_64 -cpu Haswell -rtc base=2014-05-01 -m 4G'",
    ),
)
def import_(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|PID|COMMAND",
            help="A Guix configuration, or a running QEMU: its process number or command line.",
        ),
    ],
    *,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which machine, or what to call it.")
    ] = None,
    secrets_port: Annotated[
        bool, typer.Option("--secrets-port", help="Keep the forwarded port of the secret service.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, where nothing is yet."),
    ] = None,
) -> None:
    """Turn a virtual build machine of Guix into a machine file.

    Only literal values are read, nothing is evaluated. What cannot be taken over is told.
    """
    from buildvm_nb.guix.importing import without_secrets_port
    from buildvm_nb.guix.machinefile import write_machine_file

    imported = _imported(source, name)
    if not secrets_port:
        imported = without_secrets_port(imported)
    chosen = {"name": name} if name else {}
    text = write_machine_file({**imported.fields, **chosen})
    for note in imported.notes:
        session.note(note)
    if output is None:
        write_line(text.rstrip("\n"))
        return
    write_new_file(output, text)
    session.note(f"wrote {output}; next: buildvm machine start {output}")


def _imported(source: str, name: str | None) -> "ImportedMachine":
    from buildvm_nb.guix.commandline import import_command_line, import_process
    from buildvm_nb.guix.importing import import_configuration

    if source.isdecimal():
        return import_process(int(source))
    if " " in source and not Path(source).exists():
        return import_command_line(source)
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the configuration: {source}: {getattr(error, 'strerror', error)}"
        ) from error
    return import_configuration(text, file=source, name=name)


def _warn(session: Session, warning: str) -> None:
    if warning:
        session.note(f"warning: {warning}")


def _show(session: Session, files: "Iterable[SecretFile]") -> None:
    if session.as_json:
        write_json([asdict(file) for file in files])
        return
    rows = [(file.name, file.size, f"{file.mode & 0o7777:04o}") for file in files]
    write_table(("file", "bytes ", "mode "), rows)


GUIX_COMMANDS: tuple[Command, ...] = (send, receive, import_)
"""What ``buildvm guix`` has."""
