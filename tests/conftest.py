"""Fixtures for every kind of test."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from buildvm_nb.catalog import database

settings.register_profile("any-host", deadline=None)  # a busy one is no failure
settings.load_profile("any-host")

# A job in the background ignores these, and so would every program that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Put guests first: where one process of two is left over in the end, it has short tests."""
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_the_disk():
    """Let what is written reach the disk in its time: only a power cut would show a difference.

    A new catalog with one outcome waits for it 16 times otherwise.
    """
    connect = database.connect_sqlite

    def connect_at_once(*given):
        connection = connect(*given)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "connect_sqlite", connect_at_once)
        patch.setattr(os, "fsync", lambda _: None)
        yield


def _unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def free_port():
    """A TCP port of the loopback interface that nobody uses right now."""
    return _unused_port()


@pytest.fixture
def hasty_apt(tmp_path, monkeypatch):
    """An apt that asks once where no mirror is; by itself it tries again after 1, 2 and 4 s."""
    settings = tmp_path / "hasty-apt.conf"
    settings.write_text('Acquire::Retries "0";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))


@pytest.fixture(scope="module")
def free_port_of_module():
    """The same, for a server that the tests of a file share."""
    return _unused_port()


class PostgresServer:
    """A server of our own: its data and its only socket are in a directory of its own.

    It does not run as root, which it refuses, and dies with the process that started it.
    """

    def __init__(self, programs, root):
        self.programs, self.root = programs, root
        self._identity, self._process = [], None
        self._numbers, self._free = count(), []
        if os.geteuid() == 0:
            shutil.chown(root, "postgres", "postgres")
            self._identity = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
        options = ["--username=owner", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            ["setpriv", *self._identity, programs / "initdb", "-D", root / "data", *options],
            check=True,
            capture_output=True,
            cwd="/",
        )

    def start(self):
        # as far from UTC as a zone can be, so that what depends on a session's zone is seen
        settings = ["listen_addresses=", "fsync=off", "TimeZone=Pacific/Kiritimati"]
        self._process = subprocess.Popen(
            ["setpriv", *self._identity, "--pdeathsig=QUIT", self.programs / "postgres"]
            + ["-D", self.root / "data", "-k", self.root]
            + [word for setting in settings for word in ("-c", setting)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            text=True,
        )
        told = []
        for line in self._process.stderr:
            told.append(line)
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail(f"PostgreSQL does not start: {''.join(told)}")
        self._reader = threading.Thread(target=self._process.stderr.read)
        self._reader.start()

    def stop(self):
        """End it as a power cut would, for those who are connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(600)
            self._reader.join(600)
            self._process.stderr.close()
            self._process = None

    @contextmanager
    def database(self):
        """Lend an empty database, by its URL; making a new one each time would take longer."""
        if not self._free:
            self._free.append(f"db{next(self._numbers)}")
            self.execute(f"CREATE DATABASE {self._free[-1]} STRATEGY file_copy")
        name = self._free.pop()
        yield f"postgresql://owner@/{name}?host={self.root}"
        # whoever is still at work in it makes this fail
        self.execute("SET lock_timeout = '10s'", "DROP SCHEMA public CASCADE", database=name)
        self.execute("CREATE SCHEMA public", database=name)
        self._free.append(name)

    def execute(self, *commands, database="postgres"):
        where = {"host": str(self.root), "user": "owner", "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:
            for command in commands:
                connection.execute(command)


@pytest.fixture(scope="session")
def postgres_programs():
    """The directory of PostgreSQL's own programs, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("needs PostgreSQL's server (Debian: postgresql)")
    return found[-1].parent


@contextmanager
def running_postgres(programs):
    root = Path(tempfile.mkdtemp(prefix="buildvm-", dir="/tmp"))  # the path of a socket is short
    try:
        server = PostgresServer(programs, root)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def postgres(postgres_programs):
    """A running PostgreSQL that the tests of this process share."""
    with running_postgres(postgres_programs) as server:
        yield server


@pytest.fixture
def own_postgres(postgres_programs):
    """A running PostgreSQL that the test may stop and start."""
    with running_postgres(postgres_programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a new catalog goes, in either database."""
    if request.param == "sqlite":
        yield str(tmp_path / "catalog.sqlite")
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url
