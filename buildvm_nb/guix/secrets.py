"""Guix's secret service: files, such as keys, handed to a machine before its services start.

The machine is the server. It greets whoever connects first, the client announces names, sizes and
modes, and the contents follow without separators. There is no authentication and no
acknowledgement, so a private endpoint is what makes it safe, and a client that has sent everything
knows no more than that.

References
----------
GNU Guix 1.5, ``gnu/build/secret-service.scm``, version 0 of the protocol.
"""

import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildvm_nb.errors import HostError, MachineError, UsageError
from buildvm_nb.guix.endpoint import (
    Connection,
    Ended,
    Endpoint,
    EndpointKind,
    TooLate,
    dial,
    listening,
)
from buildvm_nb.guix.secretfiles import (
    LARGEST_FILES,
    MOST_FILES,
    SecretFile,
    SecretPlace,
    gather,
    name_parts,
)
from buildvm_nb.guix.sexp import Reader, Symbol, read_forms, write_form

__all__ = [
    "GREETING",
    "ClientPatience",
    "ServerPatience",
    "receive_secrets",
    "send_files",
    "send_secrets",
]

_CONNECT_S = 10.0
_FAREWELL_S = 10.0
"""How long a server that has all may take to close."""
_VERSION = 0
_SERVER, _SECRETS, _FILES = map(Symbol, ("secret-service-server", "secrets", "files"))
_VERSION_FORM = [Symbol("version"), _VERSION]
_LONGEST_GREETING = 1024
_LONGEST_LIST = 2**20
_HIGHEST_MODE = 0o177777
_TRIPLE = 3

GREETING = write_form([_SERVER, _VERSION_FORM]).encode()
"""What the machine says to the first who connects."""


@dataclass(frozen=True, kw_only=True)
class ClientPatience:
    """How long a client waits; tries, pause and handshake are as in Guix."""

    retries: int = 60
    """Further tries to connect, after the first one."""
    pause_s: float = 1.0
    """Between two tries."""
    handshake_timeout_s: float = 180.0
    """From the first connection to the greeting."""
    transfer_timeout_s: float = 180.0
    """For all that is sent then."""


@dataclass(frozen=True, kw_only=True)
class ServerPatience:
    """How long a server waits; for a client as in Guix."""

    client_timeout_s: float = 60.0
    """Until somebody connects."""
    transfer_timeout_s: float = 180.0
    """For the rest; Guix waits without end."""


def send_secrets(
    directory: Path | None,
    endpoint: Endpoint,
    patience: ClientPatience = ClientPatience(),
    *,
    limit: int = LARGEST_FILES,
) -> list[SecretFile]:
    """Send the files of a directory to a machine that waits for its secrets.

    A connection succeeds as soon as QEMU listens, long before the machine does. So only the
    greeting counts, and a connection that closes before it is tried again.

    Parameters
    ----------
    directory : Path, optional
        What the machine's root directory gets; None: nothing, which ends its wait as well.
    endpoint : Endpoint
        Where the machine waits.
    patience : ClientPatience
        Tries and time limits.
    limit : int
        Bytes of all files together.

    Returns
    -------
    list of SecretFile
        What was sent. Nobody says whether it has arrived.

    Raises
    ------
    UsageError
        If the directory has what cannot be sent.
    HostError
        If nobody listens.
    MachineError
        If whoever listens does not greet, speaks another protocol, or drops the connection.
    """
    files = gather(directory, limit=limit) if directory else []
    return send_files(files, endpoint, patience)


def send_files(
    files: Sequence[tuple[SecretFile, bytes]],
    endpoint: Endpoint,
    patience: ClientPatience = ClientPatience(),
    *,
    check: Callable[[], None] = lambda: None,
) -> list[SecretFile]:
    """Send files to a machine that waits for its secrets.

    Parameters
    ----------
    files : sequence of (SecretFile, bytes)
        What is announced, and the content.
    endpoint : Endpoint
        Where the machine waits.
    patience : ClientPatience
        Tries and time limits.
    check : callable
        Called before each further try; what it raises ends them.

    Returns
    -------
    list of SecretFile
        What was sent. Nobody says whether it has arrived.

    Raises
    ------
    HostError
        If nobody listens.
    MachineError
        If whoever listens does not greet, speaks another protocol, or drops the connection.
    """
    message = _announcement([file for file, _ in files]) + b"".join(data for _, data in files)
    with closing(_greeted(endpoint, patience, check)) as connection:
        deadline = time.monotonic() + patience.transfer_timeout_s
        connection.send(message, deadline, "the secrets")
        connection.finish(_FAREWELL_S)
    return [file for file, _ in files]


def receive_secrets(
    endpoint: Endpoint,
    root: Path,
    patience: ServerPatience = ServerPatience(),
    *,
    limit: int = LARGEST_FILES,
) -> list[SecretFile]:
    """Wait for one client and put the files that it sends below a directory.

    All files are there afterwards, or none. Whoever connects second is refused.

    Parameters
    ----------
    endpoint : Endpoint
        Where to wait.
    root : Path
        What absolute names are below; ``/`` in a machine that is to have the secrets itself.
    patience : ServerPatience
        Time limits.
    limit : int
        Bytes of all files together.

    Returns
    -------
    list of SecretFile
        What was put into place.

    Raises
    ------
    HostError
        If the endpoint is taken, or a file cannot be put into place.
    MachineError
        If nobody connects, or the client does not keep to the protocol.
    """
    place = SecretPlace(root)
    with closing(place), closing(_first_client(endpoint, patience)) as connection:
        deadline = time.monotonic() + patience.transfer_timeout_s
        connection.send(GREETING, deadline, "the greeting")
        files = _receive_announcement(connection, deadline, limit)
        for file in files:
            _store(place, file, connection, deadline)
        place.commit()
    return files


def _greeted(endpoint: Endpoint, patience: ClientPatience, check: Callable[[], None]) -> Connection:
    """Connect until somebody greets."""
    deadline: float | None = None
    failure = ""
    for attempt in range(patience.retries + 1):
        if attempt:
            threading.Event().wait(patience.pause_s)
            check()
        try:
            descriptor = dial(endpoint, _CONNECT_S)
        except OSError as error:
            failure = error.strerror or str(error)
            continue
        connection = Connection(descriptor, is_device=endpoint.kind is EndpointKind.PORT)
        if deadline is None:
            deadline = time.monotonic() + patience.handshake_timeout_s
        try:
            _receive_greeting(connection, deadline)
        except Ended as error:
            connection.close()
            failure = error.message
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    kind = HostError if deadline is None else MachineError
    raise kind(
        f"no secret service at {endpoint} after {patience.retries + 1} tries: {failure}",
        hint="is the machine running, and does it still wait for its secrets?",
    )


def _first_client(endpoint: Endpoint, patience: ServerPatience) -> Connection:
    """Accept one client; the endpoint is closed then, so that the others are refused."""
    deadline = time.monotonic() + patience.client_timeout_s
    with listening(endpoint) as descriptor:
        if endpoint.kind is EndpointKind.PORT:
            return Connection(os.dup(descriptor), is_device=True)
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not select.select([listener], [], [], left_s)[0]:
                    raise TooLate(
                        f"nobody sent secrets to {endpoint} in {patience.client_timeout_s:g} s"
                    )
                client, _ = listener.accept()
                if endpoint.kind is not EndpointKind.UNIX or _is_ours(client):
                    return Connection(client.detach())
                client.close()


def _is_ours(client: socket.socket) -> bool:
    """Tell whether the other end of a Unix socket is this user or root."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return user in {0, os.geteuid()}


def _store(place: SecretPlace, file: SecretFile, connection: Connection, deadline: float) -> None:
    try:
        with place.add(file) as stream:
            left = file.size
            while left:
                data = connection.receive(deadline, f"all of {file.name}")
                stream.write(data[:left])
                connection.push_back(data[left:])
                left -= len(data[:left])
    except OSError as error:
        raise HostError(f"cannot write a secret: {file.name}: {error.strerror}") from error


def _announcement(files: Sequence[SecretFile]) -> bytes:
    """Write the list of secrets; their contents follow at once, in its order."""
    triples = [[file.name, file.size, file.mode] for file in files]
    return write_form([_SECRETS, _VERSION_FORM, [_FILES, triples]]).encode()


def _receive_greeting(connection: Connection, deadline: float) -> None:
    """Wait until the machine greets in our version."""
    _check_greeting(_receive_form(connection, deadline, _LONGEST_GREETING, "the greeting"))


def _receive_announcement(connection: Connection, deadline: float, limit: int) -> list[SecretFile]:
    """Receive the list of secrets: names are safe, and none is there twice."""
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
    reader, text = Reader(most=1, is_list=True), bytearray()
    try:
        while not reader.is_done:
            data = connection.receive(deadline, what)
            text += data
            reader.feed(data.decode("latin-1"))  # of each byte one character: where it ends counts
            if len(text) > longest:
                break
        end = reader.places[0][1] if reader.is_done else len(text)
        if end > longest:
            raise MachineError(f"{what} is too long; allowed: {longest} bytes")
        connection.push_back(bytes(text[end:]))
        (form,) = read_forms(text[:end].decode())
    except (UsageError, UnicodeDecodeError) as error:
        raise MachineError(
            f"{what} is no S-expression: {error}; it is {bytes(text)!r:.200}"
        ) from error
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
