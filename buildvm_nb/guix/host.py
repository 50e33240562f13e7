"""The files with which this host's Guix sends builds to a machine: put in, and taken out again."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.guix.sexp import (
    OffloadMachine,
    acl_of,
    authorize,
    read_signing_key,
    revoke,
    with_machine,
    without_machine,
)
from buildvm_nb.model.value import Value

__all__ = ["GuixHost", "Introduction"]

_LARGEST_FILE = 2**20


class Introduction(Value):
    """What a Guix must know of a machine that is to build for it."""

    name: str
    """What we call the machine."""
    machine: OffloadMachine
    """Its key file is where the machine keeps it."""
    signing_key: str
    """The public key with which it signs what it has built."""
    identity: str
    """The private key that lets Guix in."""


class GuixHost:
    """Guix's directory of settings."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def key_file(self, name: str) -> Path:
        """Tell where the key that lets Guix in to a machine is put."""
        return self.directory / "offload/ssh/virtual-build-machine" / name

    def _installed_key(self, name: str) -> Path:
        """Tell where it is remembered which signing key was let in for a machine.

        Not with the machine's state, which may be another user's, or gone: who undoes it may be
        root with another home.
        """
        key = self.key_file(name)
        return key.with_name(f"{key.name}.signing-key.pub")

    def introduce(self, known: Introduction) -> list[Path]:
        """Let Guix send builds to a machine, and take what that has built.

        Where a file holds what we do not understand, nothing is written.
        """
        key = self.key_file(known.name)
        machine = known.machine.model_copy(update={"private_key": str(key)})
        machines = with_machine(self._read("machines.scm"), known.name, machine)
        installed = self._installed_key(known.name)
        acl = self._read("acl") or self._first_acl()
        if installed.exists() and (old := read_signing_key(installed)) != known.signing_key:
            acl = revoke(acl, old)  # of an earlier machine of that name
        acl = authorize(acl, known.signing_key)
        owner = self._owner()
        return [
            self._write(installed, f"{known.signing_key}\n", 0o444),
            self._write(key, known.identity, 0o400, owner),
            self._write(self.directory / "acl", acl, 0o644),
            self._write(self.directory / "machines.scm", machines, 0o644),
        ]

    def forget(self, name: str, signing_key: str = "") -> list[Path]:
        """Undo `introduce`; where it is not known which key is the machine's, write nothing.

        `signing_key` is for machines that an older version has introduced; since then it is
        remembered here.
        """
        installed, key = self._installed_key(name), self.key_file(name)
        old = {file: self._read(file) for file in ("machines.scm", "acl")}
        new = {"machines.scm": without_machine(old["machines.scm"], name)}
        is_there = new["machines.scm"] != old["machines.scm"] or key.exists()
        keys = [signing_key] if signing_key else []
        keys += [read_signing_key(installed)] if installed.exists() else []
        if is_there and not keys:
            raise HostError(
                f"it is not known which key in {self.directory / 'acl'} is that of the machine "
                f"{name}: nothing was changed",
                hint="say where its state is (BUILDVM_STATE=DIRECTORY), or take out by hand what "
                f"has {name} in {self.directory / 'machines.scm'}, its key from acl, and {key}",
            )
        if keys and old["acl"]:
            new["acl"] = old["acl"]
            for one in keys:
                new["acl"] = revoke(new["acl"], one)
        changed = []
        for file, text in new.items():
            path = self.directory / file
            if text != old[file]:
                changed.append(self._write(path, text, 0o644) if text.strip() else _removed(path))
        return changed + [_removed(path) for path in (key, installed) if path.exists()]

    def _read(self, file: str) -> str:
        path = self.directory / file
        if path.is_symlink():
            raise HostError(
                f"{path} is made by Guix System, from its configuration",
                hint="say it there: the list of machines in `build-machines`, and the key of "
                "`--signing-key` in `authorized-keys`, both of `guix-configuration`",
            )
        try:
            with path.open(encoding="utf-8") as stream:
                text = stream.read(_LARGEST_FILE + 1)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8") from error
        if len(text) > _LARGEST_FILE:
            raise UsageError(f"{path} is too large; allowed: {_LARGEST_FILE} characters")
        return text

    def _first_acl(self) -> str:
        """Write the list that Guix makes where there is none: it takes what it signed itself."""
        own = self.directory / "signing-key.pub"
        return acl_of(read_signing_key(own)) if own.exists() else ""

    def _owner(self) -> tuple[int, int] | None:
        """Tell whom Guix's daemon runs as: its own secret key is for it alone."""
        try:
            status = (self.directory / "signing-key.sec").stat()
        except OSError:
            return None
        return status.st_uid, status.st_gid

    @staticmethod
    def _write(path: Path, text: str, mode: int, owner: tuple[int, int] | None = None) -> Path:
        """Write a file as a whole, or not at all."""
        partial = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(prefix=".buildvm-", dir=path.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                os.fchmod(stream.fileno(), mode)
                if owner and os.geteuid() == 0:
                    os.fchown(stream.fileno(), *owner)
            Path(partial).replace(path)
        except OSError as error:
            if partial:
                with suppress(FileNotFoundError):
                    Path(partial).unlink()
            raise HostError(
                f"cannot write {path}: {error.strerror}",
                hint="it is Guix's own: do it as root, with sudo",
            ) from error
        return path


def _removed(path: Path) -> Path:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot remove {path}: {error.strerror}") from error
    return path
