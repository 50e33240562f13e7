"""The two messages of Guix's secret service: the machine's greeting and the list of secrets.

References
----------
GNU Guix 1.5, ``gnu/build/secret-service.scm``, version 0 of the protocol.
"""

import stat
from collections.abc import Sequence
from typing import Any

from buildvm_nb.errors import MachineError, UsageError
from buildvm_nb.guix.connection import Connection
from buildvm_nb.guix.secretfiles import MOST_FILES, SecretFile, name_parts
from buildvm_nb.guix.sexp import FormScanner, Symbol, read_forms, write_form

__all__ = ["GREETING", "announcement", "receive_announcement", "receive_greeting"]

_VERSION = 0
_SERVER, _SECRETS, _FILES = map(Symbol, ("secret-service-server", "secrets", "files"))
_VERSION_FORM = [Symbol("version"), _VERSION]
_LONGEST_GREETING = 1024
_LONGEST_LIST = 2**20
_HIGHEST_MODE = 0o177777
_TRIPLE = 3

GREETING = write_form([_SERVER, _VERSION_FORM]).encode()
"""What the machine says to the first who connects."""


def announcement(files: Sequence[SecretFile]) -> bytes:
    """Announce files; their contents follow at once.

    Parameters
    ----------
    files : sequence of SecretFile
        In the order of their contents.

    Returns
    -------
    bytes
        The list of secrets.
    """
    triples = [[file.name, file.size, file.mode] for file in files]
    return write_form([_SECRETS, _VERSION_FORM, [_FILES, triples]]).encode()


def receive_greeting(connection: Connection, deadline: float) -> None:
    """Wait until the machine greets.

    Parameters
    ----------
    connection : Connection
        Leads to the machine.
    deadline : float
        On the monotonic clock.

    Raises
    ------
    MachineError
        If it says something else, or another version; `Ended` if it closes, `TooLate` if time is
        over.
    """
    _check_greeting(_receive_form(connection, deadline, _LONGEST_GREETING, "the greeting"))


def receive_announcement(connection: Connection, deadline: float, limit: int) -> list[SecretFile]:
    """Receive the list of secrets.

    Parameters
    ----------
    connection : Connection
        Leads to the client.
    deadline : float
        On the monotonic clock.
    limit : int
        Bytes of all files together.

    Returns
    -------
    list of SecretFile
        With safe names, none twice.

    Raises
    ------
    MachineError
        If it is none, of another version, or announces too much or an unsafe name; `Ended` and
        `TooLate` as before.
    """
    form = _receive_form(connection, deadline, _LONGEST_LIST, "the list of secrets")
    return _read_list(form, limit)


def _check_greeting(form: Any) -> None:  # noqa: ANN401 - whatever the other end said
    match form:
        case [name, [version, number]] if (name, version) == (_SERVER, _VERSION_FORM[0]):
            _check_version("the secret service speaks", number)
        case _:
            raise MachineError(f"this is no secret service; it greets with {write_form(form):.200}")


def _check_version(what: str, number: object) -> None:
    if type(number) is not int or number != _VERSION:
        raise MachineError(f"{what} version {number!r:.40} of the protocol; allowed: {_VERSION}")


def _receive_form(connection: Connection, deadline: float, longest: int, what: str) -> Any:  # noqa: ANN401
    """Receive one expression, and not a byte more."""
    scanner = FormScanner()
    text = bytearray()
    end = None
    while end is None:
        data = connection.receive(deadline, what)
        try:
            end = scanner.feed(data)
        except ValueError as error:
            raise MachineError(
                f"{what} is no S-expression: {error}; it is {bytes(text + data)!r:.200}"
            ) from error
        text += data[:end]
        if len(text) > longest:
            raise MachineError(f"{what} is too long; allowed: {longest} bytes")
        if end is not None:
            connection.push_back(data[end:])
    try:
        (form,) = read_forms(text.decode())
    except (UsageError, UnicodeDecodeError, ValueError) as error:
        raise MachineError(f"{what} is no S-expression: {bytes(text)!r:.200}") from error
    return form


def _read_list(form: Any, limit: int) -> list[SecretFile]:  # noqa: ANN401 - the client's words
    """Check the announced files."""
    match form:
        case [name, [version, number], [files, list() as triples]] if (
            name,
            version,
            files,
        ) == (_SECRETS, _VERSION_FORM[0], _FILES):
            _check_version("the secrets are in", number)
        case _:
            raise MachineError(f"this is no list of secrets: {write_form(form):.200}")
    if len(triples) > MOST_FILES:
        raise MachineError(f"too many secrets: {len(triples)}; allowed: {MOST_FILES}")
    announced = [_read_triple(triple) for triple in triples]
    if (size := sum(file.size for file in announced)) > limit:
        raise MachineError(f"the secrets are too large: {size} bytes; allowed: {limit}")
    paths = {name_parts(file.name) for file in announced}
    above = {path[:depth] for path in paths for depth in range(1, len(path))}
    if len(paths) < len(announced) or paths & above:
        raise MachineError("the same secret was announced twice, or as a file and a directory")
    return announced


def _read_triple(triple: Any) -> SecretFile:  # noqa: ANN401 - the client's words
    is_triple = isinstance(triple, list) and len(triple) == _TRIPLE
    name, size, mode = triple if is_triple else (None, None, None)
    if not (type(name) is str and type(size) is int and type(mode) is int):
        raise MachineError(
            f'a secret is announced as {write_form(triple):.200}; allowed: ("NAME" SIZE MODE)'
        )
    if size < 0 or not 0 <= mode <= _HIGHEST_MODE or stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise MachineError(
            f"a secret is announced with size {size} and mode {mode:#o}: {name!r:.200}; "
            "allowed: plain files"
        )
    return SecretFile(name=name, size=size, mode=mode)
