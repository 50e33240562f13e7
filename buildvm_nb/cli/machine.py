"""``buildvm machine``: named virtual build machines that stay."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.command import Command, ExitStatus, Session, command, complete_machine
from buildvm_nb.cli.output import (
    write_fields,
    write_json,
    write_line,
    write_new_file,
    write_table,
)
from buildvm_nb.errors import StateError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.guix.machinefile import MachineFile
    from buildvm_nb.service import Places, Status

__all__ = ["MACHINE_COMMANDS"]

MachineName = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE", autocompletion=complete_machine, help="A machine, or its file (.toml)."
    ),
]


@command(
    "new",
    examples=(
        "buildvm machine new build-vm",
        "buildvm machine new old -o old.toml",
        "buildvm machine new guix --disk ./guix-system.qcow2",
    ),
)
def new(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits and . _ -")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here instead."),
    ] = None,
    disk: Annotated[
        Path | None,
        typer.Option(
            "--disk", metavar="FILE", help="A disk image that boots by itself, such as Guix's."
        ),
    ] = None,
) -> None:
    """Write a commented machine file.

    Its values are the defaults of Guix's virtual build machines.
    """
    from buildvm_nb.guix.machinefile import GUIX_FORWARDINGS, write_machine_file

    fields: dict[str, object] = {"name": name}
    if disk:
        fields |= {"disk": str(disk.absolute()), "port_forwardings": GUIX_FORWARDINGS}
    text = write_machine_file(fields)
    path = output or _places().files / f"{name}.toml"
    write_new_file(path, text, with_parents=output is None)
    session.note(f"wrote {path}; next: buildvm machine start {output or name}")


@command(
    "start",
    examples=(
        "buildvm machine start build-vm",
        "buildvm machine start ./old.toml",
        "buildvm machine start --auto",
    ),
)
def start(
    session: Session,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            autocompletion=complete_machine,
            help="A machine, or its file (.toml).",
        ),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Start all machines whose file says auto_start.")
    ] = False,
) -> None:
    """Start a machine in the background.

    It returns when the machine's SSH server has answered. Nothing happens to a machine that runs.
    """
    from buildvm_nb.service import start_machine

    if auto == (name is not None):
        raise UsageError("name a machine, or say --auto")
    places = _places()
    chosen = [_found(places, name)] if name else _automatic(places)
    for file, machine in chosen:
        _warn_of_port(session, machine)
        with session.progress().task(f"start {machine.name}"):
            argv = _foreground(str(session.cache().root), file)
            status = start_machine(machine.name, argv, places=places)
        _tell(session, status)


@command("stop", examples=("buildvm machine stop build-vm",))
def stop(session: Session, name: MachineName) -> None:
    """Stop a machine.

    What its builds wrote is gone then, and so is what a crashed machine has left.
    """
    from buildvm_nb.service import stop_machine

    places = _places()
    chosen = _named(places, name)
    was_running = stop_machine(chosen, places=places)
    session.note(f"{chosen} {'is stopped' if was_running else 'was not running'}")


@command("restart", examples=("buildvm machine restart build-vm",))
def restart(session: Session, name: MachineName) -> None:
    """Stop a machine and start it again.

    It is then as its file says now; its SSH keys stay.
    """
    from buildvm_nb.service import restart_machine

    places = _places()
    file, machine = _found(places, name)
    _warn_of_port(session, machine)
    with session.progress().task(f"restart {machine.name}"):
        status = restart_machine(
            machine.name, _foreground(str(session.cache().root), file), places=places
        )
    _tell(session, status)


@command(
    "status", examples=("buildvm machine status build-vm", "buildvm machine status build-vm --json")
)
def status(session: Session, name: MachineName) -> None:
    """Show what a machine is doing.

    Exits with 3 if it is not running, as systemctl does.
    """
    from buildvm_nb.service import machine_status

    places = _places()
    chosen = _named(places, name)
    found = machine_status(places.state(chosen), chosen)
    _tell(session, found)
    if not found.is_alive:
        raise typer.Exit(ExitStatus.NOT_RUNNING)


@command("list", examples=("buildvm machine list", "buildvm machine list --json"))
def list_(session: Session) -> None:
    """List the machines that have a file or were started."""
    from buildvm_nb.model.instants import format_instant
    from buildvm_nb.service import known_machines, machine_status

    places = _places()
    found = [machine_status(places.state(name), name) for name in known_machines(places)]
    if session.as_json:
        write_json([one.model_dump(mode="json") for one in found])
        return
    rows = []
    for one in found:
        machine = one.record.machine if one.record else None
        date = format_instant(machine.date) if machine else ""
        rows.append((one.name, one.phase.value, one.ssh_port, date, machine and machine.cpu))
    write_table(("machine", "state", "SSH port ", "began at", "CPU"), rows)


@command(
    "console",
    examples=("buildvm machine console build-vm", "buildvm machine console build-vm --follow"),
)
def console(
    session: Session,
    name: MachineName,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many, from the end.")
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as long as the machine runs.")
    ] = False,
) -> None:
    """Show what a machine's serial console said.

    Of a stopped machine, what it said last.
    """
    from buildvm_nb.service import machine_status

    places = _places()
    chosen = _named(places, name)
    place = places.state(chosen)
    if not place.console.exists():
        raise StateError(
            f"the machine {chosen} has not said anything yet",
            hint=f"buildvm machine start {chosen}",
        )
    found = machine_status(place, chosen)
    argv = ["tail", f"--lines={lines}"]
    if follow and found.is_alive and found.record:
        argv += ["--follow=name", f"--pid={found.record.pid}"]
    session.settle()
    os.execvp(argv[0], [*argv, "--", str(place.console)])  # noqa: S606 - it takes our place


@command(
    "ssh",
    takes_words=True,
    examples=(
        "buildvm machine ssh build-vm",
        "buildvm machine ssh build-vm date --utc",
    ),
)
def ssh(
    session: Session,
    name: MachineName,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="For the machine's shell.")
    ] = None,
) -> None:
    """Log in to a machine, or run a command in it.

    Its host key was made on this host, so that any other is refused.
    """
    from buildvm_nb.service import machine_status, secrets_endpoint
    from buildvm_nb.service.places import USER, ssh_argv

    places = _places()
    chosen = _named(places, name)
    found = machine_status(places.state(chosen), chosen)
    if not found.is_alive:
        raise StateError(
            f"the machine {chosen} is {found.phase}", hint=f"buildvm machine start {chosen}"
        )
    if found.ssh_port is None:
        raise StateError(
            f"no port leads to the SSH server of {chosen}",
            hint="add {host = 11022, guest = 22} to port_forwardings in its file, and restart it",
        )
    machine = found.record.machine if found.record else None
    if machine and machine.disk and not secrets_endpoint(machine):
        raise StateError(
            f"the machine {chosen} has its own SSH keys: none were given to it",
            hint=f"ssh -p {found.ssh_port} {machine.ssh_user}@127.0.0.1, or forward a port to 1004 "
            "if it has Guix's secret service",
        )
    user = machine.ssh_user if machine and machine.disk else USER
    argv = ssh_argv(places.state(chosen), chosen, found.ssh_port, user)
    session.settle()
    os.execvp(argv[0], [*argv, *(words or [])])  # noqa: S606 - it takes our place


@command(
    "run", examples=("buildvm machine run build-vm", "buildvm machine run /etc/buildvm/old.toml")
)
def run(session: Session, name: MachineName) -> None:
    """Run a machine in the foreground, for service managers.

    Tells systemd when the machine is ready, and ends with the machine. SIGTERM ends both.
    """
    from buildvm_nb.service import supervise

    places = _places()
    file, machine = _found(places, name)
    supervise(file, machine, places=places, cache=session.cache(), progress=session.progress())


@command(
    "unit",
    examples=(
        "buildvm machine unit build-vm --systemd -o ~/.config/systemd/user/build-vm.service",
        "buildvm machine unit build-vm --systemd --system",
        "buildvm machine unit build-vm --shepherd",
    ),
)
def unit(
    session: Session,
    name: MachineName,
    *,
    systemd: Annotated[bool, typer.Option("--systemd", help="For systemd.")] = False,
    shepherd: Annotated[bool, typer.Option("--shepherd", help="For the Shepherd.")] = False,
    system: Annotated[
        bool, typer.Option("--system", help="For the system's systemd instead of the user's.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, where nothing is yet."),
    ] = None,
) -> None:
    """Write a service that runs a machine, for systemd or the Shepherd."""
    from buildvm_nb.service import shepherd_service, systemd_unit
    from buildvm_nb.service.control import SYSTEM_ROOT, image_command, kvm_group

    if system and not systemd:
        raise UsageError("--system says nothing without --systemd")
    if systemd == shepherd:
        raise UsageError("say --systemd or --shepherd")
    places = _places()
    file, machine = _found(places, name)
    variables = dict(_variables(session, places))
    if system:  # its account has files of its own
        variables |= {
            "BUILDVM_STATE": f"/var/lib/{SYSTEM_ROOT}",
            "BUILDVM_CACHE": f"/var/cache/{SYSTEM_ROOT}",
        }
    argv = _foreground(variables["BUILDVM_CACHE"], file)
    if systemd:
        text = systemd_unit(machine, argv, variables, is_system=system, group=kvm_group())
    else:
        log = str(places.state(machine.name).log)
        text = shepherd_service(machine, argv, variables, log=log)
    if output is None:
        write_line(text.rstrip("\n"))
        return
    # systemd's directory of a user's units is there only once something has made it
    write_new_file(output, text, with_parents=systemd and not system)
    manager = "systemctl" if system else "systemctl --user"
    enable = "enable --now" if machine.auto_start else "start"
    following = f"{manager} daemon-reload && {manager} {enable} {output.name}"
    session.note(f"wrote {output}; next: {following if systemd else f'herd load root {output}'}")
    if system and not machine.disk:
        session.note(
            "its account cannot make images; before, and after each change of the image: "
            + image_command(machine)
        )


def _places() -> "Places":
    from buildvm_nb.service import Places

    return Places.of_user()


def _found(places: "Places", text: str) -> "tuple[Path, MachineFile]":
    from buildvm_nb.service import find_machine

    return find_machine(places, text)


def _named(places: "Places", text: str) -> str:
    """Return the name of a machine, which need not have a file any more."""
    from buildvm_nb.service import known_machines

    if not text.endswith(".toml") and text in known_machines(places):
        return text
    return _found(places, text)[1].name


def _automatic(places: "Places") -> "list[tuple[Path, MachineFile]]":
    found = [_found(places, str(path)) for path in sorted(places.files.glob("*.toml"))]
    return [(path, machine) for path, machine in found if machine.auto_start]


def _foreground(cache: str, file: Path) -> list[str]:
    # -P: it runs in the directory /, where no module of ours is to be looked for
    program = [sys.executable, "-P", "-m", "buildvm_nb.cli"]
    return [*program, "--cache", cache, "machine", "run", str(file)]


def _variables(session: Session, places: "Places") -> Mapping[str, str]:
    return {
        "BUILDVM_CACHE": str(session.cache().root),
        "BUILDVM_CONFIG": str(places.files.parent),
        "BUILDVM_STATE": str(places.states.parent),
    }


def _warn_of_port(session: Session, machine: "MachineFile") -> None:
    from buildvm_nb.service import secrets_endpoint

    if endpoint := secrets_endpoint(machine):
        session.warn(
            f"any local user can reach {endpoint} and give {machine.name} other secrets before we "
            "do; it does not become ready then"
        )


def _booted(machine: "MachineFile") -> list[tuple[str, str]]:
    """Tell what a machine boots, and what that means for what else is told."""
    if not machine.disk:
        return [("image", str(machine.image)), ("kernel", machine.kernel)]
    return [
        ("disk", machine.disk),
        ("proven", "nothing: date and CPU were set, but not read back in it"),
    ]


def _tell(session: Session, status: "Status") -> None:
    from buildvm_nb.model.instants import format_instant

    if session.as_json:
        write_json(status.model_dump(mode="json"))
        return
    fields = [("machine", status.name), ("state", status.phase.value)]
    if record := status.record:
        machine = record.machine
        ports = (f"{one.host} to {one.guest}" for one in machine.port_forwardings)
        fields += [
            ("why", record.failure),
            ("since", format_instant(record.since.replace(microsecond=0))),
            ("process", f"{record.pid}" if status.is_alive else ""),
            ("QEMU", f"{record.qemu_pid or ''}" if status.is_alive else ""),
            ("CPU", f"{machine.cpu}, {machine.cpu_count} virtual"),
            ("memory", f"{machine.memory_mib} MiB"),
            ("initial date", format_instant(machine.date)),
            *_booted(machine),
            ("ports", ", ".join(ports)),
            ("file", record.file),
        ]
        if status.ssh_port and status.is_alive:
            fields.append(("log in", f"buildvm machine ssh {status.name}"))
    write_fields(fields)


MACHINE_COMMANDS: tuple[Command, ...] = (
    new,
    start,
    stop,
    restart,
    status,
    list_,
    console,
    ssh,
    run,
    unit,
)
"""What ``buildvm machine`` has."""
