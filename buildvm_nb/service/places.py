"""Where machine files are, and where each machine keeps its state."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.guix.machinefile import MachineFile, load_machine_file

__all__ = ["Places", "StatePlace", "find_machine", "known_machines"]


@dataclass(frozen=True, kw_only=True)
class StatePlace:
    """The directory of one machine's state, for its owner alone."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by whoever runs the machine."""
        return self.root / "lock"

    @property
    def starting(self) -> Path:
        """Held by it until the machine is ready."""
        return self.root / "starting"

    @property
    def record(self) -> Path:
        """What is known of the machine while it runs."""
        return self.root / "state.json"

    @property
    def console(self) -> Path:
        """What its serial console said since it was started."""
        return self.root / "console.log"

    @property
    def log(self) -> Path:
        """What the process that runs it in the background says."""
        return self.root / "log"

    def make(self) -> None:
        """Make the directory.

        Raises
        ------
        HostError
            If it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HostError(
                f"a machine's state cannot be kept: {self.root}: {error.strerror}",
                hint="choose another directory with BUILDVM_STATE",
            ) from error


@dataclass(frozen=True, kw_only=True)
class Places:
    """The directories of this user's machines."""

    files: Path
    """Machine files, NAME.toml."""
    states: Path
    """A directory for each machine that was ever started."""

    @classmethod
    def of_user(cls) -> "Places":
        """Return the user's own.

        Returns
        -------
        Places
            Below ``$BUILDVM_CONFIG`` and ``$BUILDVM_STATE``, else where the user's files of that
            kind are.
        """
        config = os.environ.get("BUILDVM_CONFIG") or platformdirs.user_config_path("buildvm-nb")
        state = os.environ.get("BUILDVM_STATE") or platformdirs.user_state_path("buildvm-nb")
        return cls(
            files=Path(config).absolute() / "machines", states=Path(state).absolute() / "machines"
        )

    def state(self, name: str) -> StatePlace:
        """Return where a machine keeps its state.

        Parameters
        ----------
        name : str
            The machine's.

        Returns
        -------
        StatePlace
            It may not be there yet.
        """
        return StatePlace(root=self.states / name)


def find_machine(places: Places, text: str) -> tuple[Path, MachineFile]:
    """Find a machine by its name, or by the path of its file.

    Parameters
    ----------
    places : Places
        Where files are.
    text : str
        A name, or a path that ends in ``.toml``.

    Returns
    -------
    (Path, MachineFile)
        The file and what is in it.

    Raises
    ------
    UsageError
        If there is none, or its file is wrong.
    """
    if text.endswith(".toml"):
        path = Path(text).absolute()
        return path, load_machine_file(path)
    path = places.files / f"{text}.toml"
    if "/" in text or not path.exists():
        names = ", ".join(path.stem for path in _files(places))
        raise UsageError(
            f"no machine {text!r} in {places.files}" + (f"; there is {names}" if names else ""),
            hint=f"`buildvm machine new {text}` writes its file",
        )
    machine = load_machine_file(path)
    if machine.name != text:
        raise UsageError(
            f"{path}: the machine in it is named {machine.name!r}",
            hint=f"rename the file to {machine.name}.toml, or the machine",
        )
    return path, machine


def known_machines(places: Places) -> list[str]:
    """Return the names of all machines that have a file or a state.

    Parameters
    ----------
    places : Places
        Where to look.

    Returns
    -------
    list of str
        Sorted.
    """
    started = (path.name for path in places.states.glob("*") if (path / "lock").exists())
    return sorted({*(path.stem for path in _files(places)), *started})


def _files(places: Places) -> Iterator[Path]:
    yield from sorted(places.files.glob("*.toml"))
