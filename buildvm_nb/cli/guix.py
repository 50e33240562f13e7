"""``buildvm guix``: Guix's secret service, machines taken over from Guix, and offloading."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.build import VERDICT_STATUS, pass_on
from buildvm_nb.cli.command import Command, Session, command, complete_machine
from buildvm_nb.cli.describe import outcome_fields
from buildvm_nb.cli.output import (
    write_fields,
    write_json,
    write_line,
    write_new_file,
    write_table,
)
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildvm_nb.guix.importing import ImportedMachine
    from buildvm_nb.guix.secrets import SecretFile

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


@command(
    "machines",
    examples=(
        "buildvm guix machines build-vm",
        "buildvm guix machines ./build-vm.toml --install --speed 4",
        "buildvm guix machines build-vm --undo",
        "buildvm guix machines build-vm --signing-key",
    ),
)
def machines(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE", autocompletion=complete_machine, help="A machine, or its file."
        ),
    ],
    *,
    install: Annotated[
        bool, typer.Option("--install", help="Write machines.scm, the key file and the acl.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take out what --install has written.")
    ] = False,
    signing_key: Annotated[
        bool, typer.Option("--signing-key", help="Show the machine's public signing key.")
    ] = False,
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", min=0.01, help="Faster machines are asked first.")
    ] = 1.0,
    parallel_builds: Annotated[int, typer.Option(metavar="N", min=1, help="Builds at a time.")] = 1,
    directory: Annotated[
        Path,
        typer.Option(metavar="DIR", envvar="GUIX_CONFIGURATION_DIRECTORY", help="Guix's settings."),
    ] = Path("/etc/guix"),
) -> None:
    """Let this host's Guix send builds to a machine.

    Shows the machines.scm that does it. With --install, the machine is added to the one that is
    there, between marks: what you wrote stays. Restarts at other dates need nothing new.
    """
    from buildvm_nb.guix.host import GuixHost
    from buildvm_nb.guix.sexp import with_machine
    from buildvm_nb.service import Places, find_machine
    from buildvm_nb.service.guixdaemon import introduction, known_signing_key

    if install + undo + signing_key > 1:
        raise UsageError("say one of --install, --undo and --signing-key")
    places = Places.of_user()
    host = GuixHost(directory.absolute())
    if undo:
        try:
            machine = find_machine(places, name)[1]
        except UsageError:  # who undoes it need not be who made the machine
            changed = host.forget(name)
        else:
            changed = host.forget(machine.name, known_signing_key(machine, places=places))
        _tell_files(session, changed)
        if not changed:
            session.note(f"there was nothing of a machine {name} in {host.directory}")
        return
    machine = find_machine(places, name)[1]
    known = introduction(machine, places=places, speed=speed, parallel_builds=parallel_builds)
    if signing_key:
        write_line(known.signing_key)
    elif install:
        _tell_files(session, host.introduce(known))
        session.note(f"next: guix offload test {host.directory / 'machines.scm'}")
    else:
        write_line(with_machine("", machine.name, known.machine).rstrip("\n"))


@command(
    "build",
    examples=(
        "buildvm guix build hello.toml --dry-run",
        "buildvm guix build hello.toml --machine build-vm --follow",
        "buildvm guix build hello.toml --machine build-vm --in guest",
    ),
)
def build(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="CASE", help="A case file of kind guix.")],
    *,
    machine: Annotated[
        str,
        typer.Option(
            "--machine",
            metavar="NAME|FILE",
            autocompletion=complete_machine,
            help="Where it is built; it must be running.",
        ),
    ] = "build-vm",
    where: Annotated[
        str,
        typer.Option(
            "--in", metavar="host|guest", help="Which Guix fetches: this host's, or the machine's."
        ),
    ] = "host",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the commands and run nothing.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Pass on what Guix says to standard error.")
    ] = False,
) -> None:
    """Build packages as at a commit of Guix; record it.

    This host's Guix fetches today and has the machine build at its date; with --in guest the
    machine's Guix does both. Exits as `buildvm build` does.
    """
    from buildvm_nb.catalog import find_case
    from buildvm_nb.service import Places, find_machine, machine_status
    from buildvm_nb.service.guixbuild import Where, build_with_guix, guix_commands

    if where not in set(Where):
        raise UsageError(f"unknown place: --in {where}; allowed: {', '.join(Where)}")
    case, base = find_case(file, session.catalog_place)
    if dry_run:
        login = ("buildvm", "machine", "ssh", machine, "--")
        _show_commands(session, guix_commands(case, Where(where), base, login), base)
        return
    places = Places.of_user()
    name = find_machine(places, machine)[1].name
    status = machine_status(places.state(name), name)
    output = pass_on if follow else None
    with session.catalog() as catalog, session.progress().task(f"build {case.id} with Guix"):
        trial = build_with_guix(case, status, Where(where), places=places, base=base, output=output)
        outcome = catalog.record(trial.outcome, trial.log)
    if session.as_json:
        write_json(outcome.model_dump(mode="json"))
    else:
        write_fields(outcome_fields(outcome, session.catalog_place))
    raise typer.Exit(VERDICT_STATUS[outcome.verdict.value])


def _show_commands(
    session: Session, commands: "list[tuple[str, tuple[str, ...]]]", base: Path
) -> None:
    if session.as_json:
        write_json([{"step": name, "argv": argv, "cwd": str(base)} for name, argv in commands])
        return
    for name, argv in commands:
        write_line(f"# {name}")
        write_line(argv[-1] if argv[0] == "/bin/sh" else shlex.join(argv))


def _tell_files(session: Session, files: "Iterable[Path]") -> None:
    if session.as_json:
        write_json([str(file) for file in files])
        return
    for file in files:
        session.note(f"{'wrote' if file.exists() else 'removed'} {file}")


def _imported(source: str, name: str | None) -> "ImportedMachine":
    from buildvm_nb.guix.importing import import_command_line, import_configuration, import_process

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


GUIX_COMMANDS: tuple[Command, ...] = (send, receive, import_, machines, build)
"""What ``buildvm guix`` has."""
