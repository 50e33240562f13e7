"""Guix's daemon in a machine that stays: installed, introduced to this host, watched."""

import io
import os
import stat
import tarfile
import threading
from pathlib import Path

from buildvm_nb.errors import (
    BootTimeout,
    BuildVMError,
    CommandFailed,
    HostError,
    MachineError,
    StateError,
)
from buildvm_nb.guix.host import Introduction
from buildvm_nb.guix.machinefile import SSH_PORT, MachineFile
from buildvm_nb.guix.secrets import gather
from buildvm_nb.guix.sexp import OffloadMachine, acl_of, read_signing_key
from buildvm_nb.service.places import Places, StatePlace, host_key_line, identity_file
from buildvm_nb.vm import BuildMachine

__all__ = [
    "OFFLOADING",
    "GuixDaemon",
    "install_secrets",
    "introduction",
    "known_signing_key",
    "signing_key_file",
]

# Secrets of our own machines: put into place over the private channel, where nothing listens.

_TIMEOUT_S = 120.0
_UNPACK = ("tar", "--extract", "--preserve-permissions", "--file=-", "--directory=/")


def install_secrets(guest: BuildMachine, directory: Path) -> int:
    """Put the files of a directory below a guest's root directory, owned by root.

    `directory`: plain files, 64 MiB at most; links are refused.
    Raises `UsageError` if there is no such directory, or it has what cannot be sent.
    """
    files = gather(directory)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for file, content in files:
            member = tarfile.TarInfo(file.name.lstrip("/"))
            member.size, member.mode = file.size, stat.S_IMODE(file.mode)
            member.mtime = guest.spec.date.timestamp()
            writer.addfile(member, io.BytesIO(content))
    archive.seek(0)
    said = bytearray()
    try:
        guest.run(
            _UNPACK,
            check=True,
            as_root=True,
            timeout_s=_TIMEOUT_S,
            stdin=archive,
            stderr=said.extend,
        )
    except CommandFailed as error:
        raise MachineError(
            f"the machine cannot take its secrets from {directory}: {error.message}",
            evidence=said.decode(errors="replace"),
        ) from error
    return len(files)


# Guix's daemon in a machine that stays: its users, its keys, its run, and whether it answers.
#
# The keys with which it signs what it builds are made by Guix itself at the machine's first start,
# kept with the machine's state, and given back at each start. They hold no dates, so they are good
# whether the machine's clock is before or after their making.

OFFLOADING = ("offloading", 1001)
"""The user of the machine that Guix's daemon on the host logs in as, and its number."""

_BUILDERS = 16
_DAEMON_TIMEOUT_S = 180.0
_TAIL = 4000
_SETTINGS = Path("etc/guix")
_ACCOUNTS = f"""
command -v guix-daemon >/dev/null || exit 42
name={OFFLOADING[0]} number={OFFLOADING[1]}
echo "$name:x:$number:$number::/home/$name:/bin/sh" >>/etc/passwd
echo "$name:x:$number:" >>/etc/group
mkdir -p /home/$name && chown $number:$number /home/$name
group=guixbuild:x:30000:
for builder in $(seq {_BUILDERS}); do
    echo "guixbuilder$builder:x:$((30000 + builder)):30000::/nonexistent:/bin/false" >>/etc/passwd
    group="$group$separator"guixbuilder$builder
    separator=,
done
echo "$group" >>/etc/group
rm -rf /etc/guix/acl
"""
_NO_GUIX = 42
_DAEMON = (
    "guix-daemon",
    "--build-users-group=guixbuild",
    # what is built here is to be built at this date, not fetched, and not sent on
    "--no-substitutes",
    "--no-offload",
)
_ASK = b"""(begin (use-modules (guix) (guix build syscalls))
(with-store store (add-text-to-store store "question" "Are you there?"))
(free-disk-space "/gnu/store"))
"""
_ANSWER = b"(values (value "


def signing_key_file(place: StatePlace) -> Path:
    """Tell where the public key is with which a machine signs what it has built."""
    return place.root / "guix" / _SETTINGS / "signing-key.pub"


class GuixDaemon:
    """Guix's daemon in a guest that is up.

    `guest`: the guest; whoever closes it ends the daemon.
    """

    def __init__(self, guest: BuildMachine, place: StatePlace, machine: MachineFile) -> None:
        self._guest, self._place, self._machine = guest, place, machine
        self._said = bytearray()
        self._failure: BuildVMError | None = None
        self._thread = threading.Thread(target=self._run, name="guix-daemon", daemon=True)
        self.end = os.eventfd(0, os.EFD_CLOEXEC)
        """Readable once the daemon has ended."""

    def start(self) -> None:
        """Start it and wait until it answers those who will log in.

        Raises `MachineError` if the machine has no Guix, or its daemon does not start.
        """
        host_key = read_signing_key(Path(self._machine.signing_key))
        self._make_accounts()
        self._put_keys(host_key)
        self._thread.start()
        self._ask()

    def close(self) -> None:
        """Forget it; the guest must have been closed."""
        if self._thread.ident:
            self._thread.join()
        os.close(self.end)

    def lost(self) -> MachineError:
        """Return the error to raise once it has ended by itself."""
        why = f": {self._failure.message}" if self._failure else ""
        return MachineError(
            f"Guix's daemon in the machine {self._machine.name} has ended{why}",
            evidence=self._words(),
            hint=f"start it again: buildvm machine restart {self._machine.name}",
        )

    def _words(self) -> str:
        return bytes(self._said[-_TAIL:]).decode(errors="replace")

    def _run(self) -> None:
        try:
            self._guest.run(_DAEMON, as_root=True, stdout=self._hear, merged=True)
        except BuildVMError as error:
            self._failure = error
        finally:
            os.eventfd_write(self.end, 1)

    def _hear(self, data: bytes) -> None:
        self._said += data
        del self._said[: -2 * _TAIL]

    def _make_accounts(self) -> None:
        result = self._guest.run(_ACCOUNTS, as_root=True, timeout_s=_DAEMON_TIMEOUT_S)
        if result.status == _NO_GUIX:
            raise MachineError(
                f"the image has no Guix: {self._machine.image}",
                hint='add the package, for example image = "debian:sid,guix"',
            )
        if result.status:
            raise MachineError(f"the machine cannot make Guix's users: status {result.status}")

    def _put_keys(self, host_key: str) -> None:
        directory = self._place.root / "guix"
        settings = directory / _SETTINGS
        try:
            settings.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (settings / "signing-key.sec").exists():
                self._make_key(settings)
            (settings / "acl").write_text(acl_of(host_key))
        except OSError as error:
            raise HostError(f"cannot keep the machine's keys: {settings}: {error}") from error
        install_secrets(self._guest, directory)

    def _make_key(self, settings: Path) -> None:
        """Have Guix make the machine's key, as it does on any machine."""
        self._said.clear()
        try:
            self._guest.run(
                ("guix", "archive", "--generate-key"),
                check=True,
                as_root=True,
                timeout_s=_DAEMON_TIMEOUT_S,
                stdout=self._hear,
                merged=True,
            )
        except CommandFailed as error:
            raise MachineError(
                f"the machine cannot make its signing key: {error.message}", evidence=self._words()
            ) from error
        for suffix, mode in (("pub", 0o444), ("sec", 0o400)):
            name = f"signing-key.{suffix}"
            content = bytearray()
            self._guest.run(("cat", f"/etc/guix/{name}"), as_root=True, stdout=content.extend)
            partial = settings.parent.parent / f"{name}.partial"
            partial.touch(mode=0o600)
            partial.write_bytes(content)
            partial.chmod(mode)
            partial.replace(settings / name)

    def _ask(self) -> None:
        """Ask it, as one who has logged in does; that also has all in memory that will be needed.

        Guix allows its machines 15 s for an answer to whoever offloads to them.
        """
        said = bytearray()
        name, number = OFFLOADING
        # the daemon may need a moment until its socket is there
        script = f"""
        for try in $(seq 100); do
            [ -S /var/guix/daemon-socket/socket ] && break
            sleep 0.1
        done
        printf '%s' "$QUESTION" | HOME=/home/{name} setpriv --reuid={number} --regid={number} \
            --clear-groups guix repl -t machine
        """
        result = self._guest.run(
            script,
            as_root=True,
            env={"QUESTION": _ASK.decode()},
            timeout_s=_DAEMON_TIMEOUT_S,
            stdout=said.extend,
            merged=True,
        )
        if result.timed_out:
            raise BootTimeout(f"Guix in the machine does not answer in {_DAEMON_TIMEOUT_S:.0f} s")
        if _ANSWER not in said:
            evidence = f"{said[-_TAIL:].decode(errors='replace')}\n{self._words()}"
            raise MachineError("Guix's daemon in the machine does not answer", evidence=evidence)


# What Guix on this host must know of a machine of ours before it can send builds there.


def introduction(
    machine: MachineFile, *, places: Places, speed: float = 1.0, parallel_builds: int = 1
) -> Introduction:
    """Gather what Guix must know of a machine.

    `speed`: as Guix compares it with other machines'; faster ones are asked first.
    Raises `StateError` if Guix cannot build there: it is not meant to, no port leads there, or it
    was never started and so has no keys.
    """
    name, place = machine.name, places.state(machine.name)
    port = machine.host_port(SSH_PORT)
    if machine.disk:
        raise StateError(
            f"Guix cannot be sent to the machine {name} by us: what is on its disk has a daemon, a "
            "user and keys of its own, which we do not know",
            hint="docs/guix.md says what to put into /etc/guix/machines.scm and the acl by hand",
        )
    if not machine.offload or port is None:
        raise StateError(
            f"Guix cannot build in the machine {name}: "
            + ("no port leads to its SSH server" if machine.offload else "its daemon is not there"),
            hint='say in its file: offload = true, image = "debian:sid,guix", and port_forwardings '
            "with guest = 22",
        )
    signing_key = known_signing_key(machine, places=places)
    if not signing_key:
        raise StateError(
            f"the machine {name} has no signing key yet in {place.root}",
            hint=f"Guix makes it at the first start: buildvm machine start {name}; if another user "
            "started it, say where the state is: BUILDVM_STATE=DIRECTORY",
        )
    identity = identity_file(place)
    listed = OffloadMachine(
        port=port,
        systems=machine.systems,
        user=OFFLOADING[0],
        host_key=host_key_line(place),
        private_key=str(identity),
        speed=speed,
        parallel_builds=parallel_builds,
    )
    try:
        text = identity.read_text()
    except OSError as error:
        raise HostError(f"cannot read {identity}: {error.strerror}") from error
    return Introduction(name=name, machine=listed, signing_key=signing_key, identity=text)


def known_signing_key(machine: MachineFile, *, places: Places) -> str:
    """Return the public key with which a machine signs what it has built."""
    path = signing_key_file(places.state(machine.name))
    return read_signing_key(path) if path.exists() else ""
