"""``machines.scm``, where Guix's daemon finds the machines it may send builds to.

The file is Scheme, and its last expression gives the list. Ours are added around that expression,
between marks, so whatever the user wrote stays as it is, byte for byte, and our part can be taken
out again.

References
----------
GNU Guix Reference Manual, "Daemon Offload Setup"; Guix 1.5, ``guix/scripts/offload.scm``.
"""

import re

from pydantic import Field

from buildvm_nb.errors import UsageError
from buildvm_nb.guix.sexp import Symbol, read_all, write_form
from buildvm_nb.model.value import Value

__all__ = ["OffloadMachine", "listed_machines", "with_machine", "without_machine"]

_OPEN = "(append ; buildvm-nb: what follows, up to its next mark, is yours\n"
_BEGIN = ";;; buildvm-nb: begin. Written by `buildvm guix machines`, which --undo takes out\n"
_END = ";;; buildvm-nb: end\n"
_LIST = """\
(let ((answers? (lambda (port)
                  (false-if-exception
                   (let ((way (socket PF_INET SOCK_STREAM 0)))
                     (dynamic-wind
                       (lambda () #t)
                       (lambda ()
                         (connect way AF_INET INADDR_LOOPBACK port)
                         (and (pair? (car (select (list way) '() '() 10)))
                              (not (eof-object? (peek-char way)))))
                       (lambda () (close-port way))))))))
(append
"""
"""A machine that does not answer is not in the list: Guix would ask it again and again, and build
nothing at all. QEMU takes connections before its guest does, so its SSH server must greet."""
_CLOSE = "))"
_OLD_LIST, _OLD_CLOSE = "(list\n", ")"
_BLOCK = re.compile(
    f"{re.escape(_BEGIN)}(?:{re.escape(_LIST)}(.*?){re.escape(_CLOSE)}"
    f"|{re.escape(_OLD_LIST)}(.*?){re.escape(_OLD_CLOSE)})(\\)?)\n{re.escape(_END)}",
    re.DOTALL,
)
_MACHINE = re.compile(r"^;;; machine (\S+)\n(.*?)(?=^;;; machine |\Z)", re.MULTILINE | re.DOTALL)
_RECORD = re.compile(r"\(build-machine\n.*?^  \(port (\d+)\)$.*?#f\)\)", re.DOTALL | re.MULTILINE)


class OffloadMachine(Value):
    """A machine to which Guix's daemon may send builds: a ``build-machine`` record."""

    name: str = "127.0.0.1"
    """Where its port is; ``localhost`` may be the other address family's, where nothing listens."""
    port: int = Field(ge=1, le=65535)
    systems: tuple[str, ...] = Field(min_length=1)
    user: str
    host_key: str
    """Of its SSH server, as OpenSSH writes it."""
    private_key: str
    """File on this host that lets the user in."""
    speed: float = Field(default=1.0, gt=0)
    """Faster machines are asked first."""
    parallel_builds: int = Field(default=1, ge=1)

    def scheme(self) -> str:
        """Return the expression that makes the record."""
        fields: list[tuple[str, object]] = [
            ("name", self.name),
            ("port", self.port),
            ("systems", [Symbol("list"), *self.systems]),
            ("user", self.user),
            ("host-key", self.host_key),
            ("private-key", self.private_key),
            ("speed", self.speed),
            ("parallel-builds", self.parallel_builds),
            # the way is short, and the machine may be an emulated one with nothing else to do
            ("compression", "none"),
            ("overload-threshold", False),
        ]
        lines = (f"({key} {write_form(value)})" for key, value in fields)
        return "(build-machine\n  " + "\n  ".join(lines) + ")"


def with_machine(text: str, name: str, machine: OffloadMachine) -> str:
    """Add a machine to the list, or replace it there."""
    theirs, ours = _split(text)
    return _joined(theirs, {**ours, name: machine.scheme()})


def without_machine(text: str, name: str) -> str:
    """Take a machine out of the list; with the last one, all of our marks."""
    theirs, ours = _split(text)
    return _joined(theirs, {key: scheme for key, scheme in ours.items() if key != name})


def listed_machines(text: str) -> list[str]:
    """Tell which machines of ours are in the list."""
    return list(_split(text)[1])


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Tell what the user wrote from what we did: the record of each machine by its name."""
    block = _BLOCK.search(text)
    theirs = _BLOCK.sub("", text).replace(_OPEN, "")
    inside = (block[1] or block[2] or "") if block else ""
    ours = {name: _RECORD.search(entry) for name, entry in _MACHINE.findall(inside)}
    is_whole = text.count(_OPEN) == bool(block and block[3]) and all(ours.values())
    if "buildvm-nb:" in theirs or not is_whole:
        raise UsageError(
            "the marks of buildvm-nb in the list of machines were changed",
            hint='take out by hand what is between them, with the lines that have "buildvm-nb:"',
        )
    return theirs, {name: record[0] for name, record in ours.items() if record}


def _joined(theirs: str, ours: dict[str, str]) -> str:
    if not ours:
        return theirs
    machines = "".join(f";;; machine {name}\n{_entry(record)}\n" for name, record in ours.items())
    starts = _form_starts(theirs)
    ending = "" if theirs.endswith("\n") or not theirs else "\n"
    if not starts:
        return f"{theirs}{ending}{_BEGIN}{_LIST}{machines}{_CLOSE}\n{_END}"
    before, last = theirs[: starts[-1]], theirs[starts[-1] :]
    return f"{before}{_OPEN}{last}{ending}{_BEGIN}{_LIST}{machines}{_CLOSE})\n{_END}"


def _entry(record: str) -> str:
    found = _RECORD.fullmatch(record)
    if not found:
        raise AssertionError("a record of ours names its port")
    return f"(if (answers? {found[1]})\n(list {record})\n(list))"


def _form_starts(text: str) -> list[int]:
    """Find where the expressions of the outermost level begin."""
    try:
        return [start for start, _ in read_all(text).places]
    except UsageError as error:
        raise UsageError(
            f"the list of machines cannot be read: {error.message}", hint=error.hint
        ) from error
