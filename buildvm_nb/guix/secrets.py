"""Guix's secret service: files, such as keys, handed to a machine before its services start.

The machine is the server. It greets whoever connects first, the client announces names, sizes and
modes, and the contents follow without separators. There is no authentication and no
acknowledgement, so a private endpoint is what makes it safe, and a client that has sent everything
knows no more than that.

References
----------
GNU Guix 1.5, ``gnu/build/secret-service.scm``, version 0 of the protocol.
"""

import errno
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

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
from buildvm_nb.guix.sexp import Reader, Symbol, read_forms, write_form

__all__ = [
    "GREETING",
    "ClientPatience",
    "SecretFile",
    "ServerPatience",
    "gather",
    "receive_secrets",
    "send_files",
    "send_secrets",
]

# The files of a secret transfer: gathered from a directory, and put below one, all or none.

MOST_FILES = 1000
"""In one transfer; Guix itself sends about ten."""

LARGEST_FILES = 64 * 2**20
"""Bytes of all files of a transfer together; Guix itself sends a few thousand."""

_LONGEST_NAME = 4096
_LONGEST_PART = 255
_DEEPEST = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE_BITS = 0o7777


@dataclass(frozen=True, kw_only=True)
class SecretFile:
    """A file as it is announced."""

    name: str
    """Absolute: what the path is where the directory is the root directory."""
    size: int
    """Bytes."""
    mode: int
    """Type and permissions, as stat(2) has them."""


def gather(directory: Path, *, limit: int = LARGEST_FILES) -> list[tuple[SecretFile, bytes]]:
    """Read the files of a directory.

    Raises `UsageError` if there is no such directory, or in it is what is no file or directory, too
    much, or a name with control characters.
    """
    if not directory.is_dir():
        raise UsageError(f"no directory of secrets: {directory}")
    found: list[tuple[SecretFile, bytes]] = []
    left = limit
    try:
        for path in _leaves(directory):
            name = "/" + os.fsdecode(path.relative_to(directory))
            if not name.isprintable():
                raise UsageError(f"a secret's name has control characters: {name!r}")
            with open(path, "rb", opener=_open_plain) as stream:
                content = stream.read(left + 1)
                mode = os.fstat(stream.fileno()).st_mode
            left -= len(content)
            if left < 0 or len(found) == MOST_FILES:
                raise UsageError(
                    f"too many secrets in {directory}; allowed: {MOST_FILES} files of "
                    f"{limit} bytes in all"
                )
            found.append((SecretFile(name=name, size=len(content), mode=mode), content))
    except OSError as error:
        raise HostError(f"cannot read a secret: {error.strerror}: {error.filename}") from error
    return found


def _leaves(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            yield path
        elif not stat.S_ISDIR(kind):
            raise UsageError(
                f"a secret must be a plain file: {path}; links are not followed",
                hint="put a copy in its place",
            )


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def name_parts(name: str) -> tuple[str, ...]:
    """Split the name of an announced file."""
    parts = tuple(name.removeprefix("/").split("/"))
    if {"", ".", ".."} & set(parts) or not name.isprintable():
        raise MachineError(
            f"a secret with an unsafe name was announced: {name!r:.200}; allowed: a path without "
            "'..', '.', empty parts and control characters"
        )
    if len(parts) > _DEEPEST:
        raise MachineError(
            f"a secret in too many directories was announced: {len(parts) - 1}; "
            f"allowed: {_DEEPEST - 1}"
        )
    if len(name.encode()) > _LONGEST_NAME or max(map(len, map(str.encode, parts))) > _LONGEST_PART:
        raise MachineError(f"a secret with too long a name was announced: {name!r:.200}")
    return parts


class SecretPlace:
    """Where secrets are put: below one directory, under other names until all are there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: list[tuple[int, str]] = []
        self._written: list[tuple[int, str, str]] = []
        self._open: dict[tuple[str, ...], int] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._open[()] = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise self._unwritable(error, "") from error

    def add(self, file: SecretFile) -> BinaryIO:
        """Make room for a file, beside the place where it will be.

        Returns: for its content; the caller closes it. It has its mode already.
        Raises `HostError` if a link or something else is in the way, or the file system refuses.
        """
        *parents, name = name_parts(file.name)
        try:
            directory = self._enter(tuple(parents))
            self._check_free(directory, name)
            hidden = f".buildvm-secret-{token_hex(8)}"
            stream = os.fdopen(os.open(hidden, _NEW_FILE, 0o600, dir_fd=directory), "wb")
            self._written.append((directory, hidden, name))
            os.fchmod(stream.fileno(), file.mode & _MODE_BITS)
        except OSError as error:
            raise self._unwritable(error, file.name) from error
        return stream

    def commit(self) -> None:
        """Give all files their names; what had such a name before is replaced, never followed."""
        try:
            while self._written:
                directory, hidden, name = self._written[0]
                os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
                del self._written[0]
        except OSError as error:
            raise self._unwritable(error, name) from error
        self._made.clear()

    def close(self) -> None:
        """Take away what was not committed; calling it twice does no harm."""
        for directory, hidden, _ in self._written:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=directory)
        for directory, name in reversed(self._made):
            with suppress(OSError):  # somebody else may have put something in
                os.rmdir(name, dir_fd=directory)
        for descriptor in self._open.values():
            os.close(descriptor)
        self._written, self._made, self._open = [], [], {}

    def _enter(self, parents: tuple[str, ...]) -> int:
        """Open a directory step by step, so that no link is ever followed; make what is missing."""
        if parents in self._open:
            return self._open[parents]
        above, name = self._enter(parents[:-1]), parents[-1]
        try:
            os.mkdir(name, 0o755, dir_fd=above)
            self._made.append((above, name))
        except FileExistsError:
            pass
        self._open[parents] = os.open(name, _DIRECTORY, dir_fd=above)
        return self._open[parents]

    @staticmethod
    def _check_free(directory: int, name: str) -> None:
        with suppress(FileNotFoundError):
            kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, "a directory is in the way")

    def _unwritable(self, error: OSError, name: str) -> HostError:
        reason = error.strerror
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            reason = "a link or file is in the way, and links are not followed"
        path = f"{self.root}/{name.lstrip('/')}" if name else str(self.root)
        return HostError(f"cannot put a secret into place: {path}: {reason}")


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

    `directory`: what the machine's root directory gets; None: nothing, which ends its wait as well.
    Raises `MachineError` if whoever listens does not greet, speaks another protocol, or drops the
    connection.
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

    Raises `MachineError` if whoever listens does not greet, speaks another protocol, or drops the
    connection.
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

    `root`: what absolute names are below; ``/`` in a machine that is to have the secrets itself.
    Raises `HostError` if the endpoint is taken, or a file cannot be put into place.
    Raises `MachineError` if nobody connects, or the client does not keep to the protocol.
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
