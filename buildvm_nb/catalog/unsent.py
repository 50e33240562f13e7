"""What a server could not take: kept in files beside the logs until the catalog is opened again.

``logs/unsent-…/outcome-….json`` holds one outcome or finding as JSON. A file appears whole or not
at all, and goes once the server has what is in it.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from ulid import ULID

from buildvm_nb.catalog.logs import sync_directory
from buildvm_nb.errors import CatalogError, CatalogUnreachable
from buildvm_nb.model.documents import read_document
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.outcome import Outcome

__all__ = ["Sent", "Unsent", "unsent_logs"]

_PREFIX = "unsent-"
_KINDS: dict[str, type[Outcome | Finding]] = {"outcome": Outcome, "finding": Finding}
"""In the order in which they are sent: findings rest on outcomes."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of sending."""

    count: int
    """Outcomes and findings that are in the catalog now."""
    trouble: tuple[str, ...]
    """What is wrong with each of those that were refused; their files stay."""


class Unsent:
    """The outcomes and findings that wait for one catalog.

    Parameters
    ----------
    logs : Path
        The directory of its logs.
    name : str
        Of the catalog; others have their own.
    """

    def __init__(self, logs: Path, name: str) -> None:
        self.root = logs / f"{_PREFIX}{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def keep(self, entry: Outcome | Finding) -> None:
        """Keep an entry for later.

        Parameters
        ----------
        entry : Outcome or Finding
            Kept, once this returns, whatever happens next.

        Raises
        ------
        CatalogError
            If it cannot be written.
        """
        name = f"{type(entry).__name__.lower()}-{ULID()}.json"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            beside = self.root / f".{name}.partial"
            with beside.open("xb") as stream:
                stream.write(entry.model_dump_json().encode())
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self.root / name)
            sync_directory(self.root)
        except OSError as error:
            raise CatalogError(
                f"cannot keep {entry.id} in {self.root} until the server is back: {error.strerror}",
                hint="make room there",
            ) from error

    def waiting(self) -> list[Path]:
        """Return the files of what waits.

        Returns
        -------
        list of Path
            In the order in which they are to be sent.
        """
        return [path for kind in _KINDS for path in sorted(self.root.glob(f"{kind}-*.json"))]

    def send(self, record: Callable[[Outcome | Finding], None]) -> Sent:
        """Hand over all that waits; two processes do not do so at the same time.

        Parameters
        ----------
        record : callable
            Puts an entry into the catalog, if it is not there.

        Returns
        -------
        Sent
            Nothing, where another process is at it.
        """
        count, trouble = 0, []
        with self._alone() as is_alone:
            for path in self.waiting() if is_alone else ():
                try:
                    kind = _KINDS[path.name.partition("-")[0]]
                    record(read_document(kind, path.read_bytes()))
                except CatalogUnreachable:
                    break
                except (CatalogError, OSError, ValidationError) as error:
                    trouble.append(f"{path}: {error}")
                    continue
                path.unlink(missing_ok=True)
                count += 1
        return Sent(count=count, trouble=tuple(trouble))

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        if not self.root.is_dir():
            yield False
            return
        with (self.root / ".lock").open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def unsent_logs(logs: Path) -> set[str]:
    """Return the logs that waiting outcomes name.

    Parameters
    ----------
    logs : Path
        The directory of the logs.

    Returns
    -------
    set of str
        Their digests, whichever catalog the outcomes wait for.

    Raises
    ------
    CatalogError
        If a waiting outcome cannot be read.
    """
    digests = set()
    for path in logs.glob(f"{_PREFIX}*/outcome-*.json"):
        try:
            digests.add(read_document(Outcome, path.read_bytes()).log_digest)
        except FileNotFoundError:
            continue  # sent meanwhile
        except (OSError, ValidationError) as error:
            raise CatalogError(f"a waiting outcome cannot be read: {path}: {error}") from error
    return digests
