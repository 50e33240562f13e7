"""Downloading one file: http, https or a local path, bounded in size and time, digested.

That a source is gone is what its own server says: 404 or 410, `SourceError`. Who cannot be reached,
does not answer, has trouble or refuses this host says nothing about the source: `Unreachable`.
"""

import errno
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from unearth.fetchers import PyPIClient

from buildvm_nb.errors import BuildVMError, HostError, SourceError, Unreachable
from buildvm_nb.host.cache import free_bytes
from buildvm_nb.host.progress import Progress

__all__ = ["download", "is_name_service_down", "network_error", "new_client", "redacted"]

MAX_BYTES = 8 * 2**30
_DEADLINE_S = 3600.0
_TRIES = 3
_PAUSE_S = 0.5
_NO_NETWORK = {errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH}
_NO_DNS = {socket.EAI_AGAIN}
_GONE = {httpx2.codes.NOT_FOUND, httpx2.codes.GONE}


def redacted(url: str) -> str:
    """Return a URL without user name and password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def new_client(*, timeout_s: float = 30.0) -> PyPIClient:
    """Return a client for http and https that follows redirects and the host's proxy settings.

    `timeout_s`: how long a connection may take, and how long it may be silent.
    Returns: to be closed by the caller.
    """
    hooks = {"request": [_refuse_other_protocols]}
    return PyPIClient(follow_redirects=True, timeout=timeout_s, event_hooks=hooks)


def _refuse_other_protocols(request: httpx2.Request) -> None:
    """Keep a redirection from leading into this host's files, which the client could read."""
    if request.url.scheme not in {"http", "https"}:
        raise httpx2.UnsupportedProtocol(
            f"it leads to a URL of kind {request.url.scheme}", request=request
        )


def network_error(error: Exception, url: str, *, configured: bool = False) -> BuildVMError:
    """Turn a failed request into the error to raise.

    Returns: `SourceError` where the server itself leads to what is refused, else `Unreachable`.
    """
    shown = redacted(url)
    said = str(error) or type(error).__name__
    if isinstance(error, (httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
        return SourceError(f"cannot be had: {shown}: {said}", sought=(shown,))
    if configured or isinstance(error, httpx2.ProxyError) or _has_no_network(error):
        return Unreachable(
            f"cannot be reached: {shown}: {said}",
            hint="check this host's network, proxy and package index settings",
        )
    return Unreachable(
        f"does not answer: {shown}: {said}", hint="try again later, or look for a copy elsewhere"
    )


def _has_no_network(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, socket.gaierror) and error.errno in _NO_DNS:
            return True
        if isinstance(error, OSError) and error.errno in _NO_NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False


def is_name_service_down(host: str) -> bool:
    """Tell whether this host cannot look up names, as against a name that is not there."""
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return error.errno in _NO_DNS
    return False


def download(
    client: PyPIClient, url: str, target: Path, *, progress: Progress, configured: bool = False
) -> str:
    """Download a file, again from the start when the connection breaks.

    Raises `HostError` if the server cannot be reached, has trouble or refuses this host, if the
    file is too large or the disk has no room.
    """
    for left in reversed(range(_TRIES)):
        try:
            with client.get_stream(url) as answer:
                _check_status(answer, url, may_try_again=left > 0)
                return _store(answer, url, target, progress)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if left == 0 or _has_no_network(error) or not isinstance(error, httpx2.TransportError):
                raise network_error(error, url, configured=configured) from error
        threading.Event().wait(_PAUSE_S * (_TRIES - left))
    raise AssertionError  # pragma: no cover - the last try returns or raises


def _check_status(answer: httpx2.Response, url: str, *, may_try_again: bool) -> None:
    if answer.status_code < httpx2.codes.BAD_REQUEST:
        return
    said = f"{answer.status_code} {answer.reason_phrase}"
    broken = answer.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR
    if broken and may_try_again:
        raise httpx2.RemoteProtocolError(said, request=answer.request)
    shown = redacted(url)
    if answer.status_code not in _GONE:
        hint = "try again later" if broken else "does it ask for a password, or block this host?"
        raise Unreachable(f"cannot be had now: {shown}: the server answered {said}", hint=hint)
    raise SourceError(
        f"cannot be had: {shown}: the server answered {said}",
        sought=(shown,),
        hint="look for a copy elsewhere, for example in an archive of the web",
    )


def _store(answer: httpx2.Response, url: str, target: Path, progress: Progress) -> str:
    announced = answer.headers.get("Content-Length", "")
    total = int(announced) if announced.isdecimal() else None
    _check_room(total, url, target)
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as stream, progress.task(f"download {target.name}") as task:
        for chunk in _within_deadline(answer.iter_bytes(2**16), url):
            done += len(chunk)
            if done > MAX_BYTES:
                raise _too_large(url)
            digest.update(chunk)
            stream.write(chunk)
            task.update(done, total, "bytes")
    return digest.hexdigest()


def _check_room(total: int | None, url: str, target: Path) -> None:
    if total is None:
        return
    if total > MAX_BYTES:
        raise _too_large(url)
    if total > (free := free_bytes(target.parent)):
        raise HostError(
            f"no room for a download of {total // 2**20} MiB: {free // 2**20} MiB are free in "
            f"{target.parent}",
            hint="make room or choose another --cache",
        )


def _too_large(url: str) -> HostError:
    return HostError(f"larger than {MAX_BYTES // 2**30} GiB: {redacted(url)}")


def _within_deadline(chunks: Iterator[bytes], url: str) -> Iterator[bytes]:
    deadline = time.monotonic() + _DEADLINE_S
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise Unreachable(f"not downloaded within {_DEADLINE_S:.0f} s: {redacted(url)}")
        yield chunk
