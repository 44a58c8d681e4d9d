"""A PostgreSQL server of the test's own: in a temporary folder, on a free port of this machine, for whoever asks there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path:
    """The folder of initdb and pg_ctl; skips the test where there is none."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not installed and on_path is None:
        pytest.skip("there is no PostgreSQL server (initdb) on this machine")
    return installed[-1].parent if installed else Path(str(on_path)).resolve().parent


def as_postgres() -> list[str]:
    """The words before a command that the server must not run as root, which it refuses."""
    if os.getuid() != 0:
        return []
    if shutil.which("runuser") is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return ["runuser", "-u", "postgres", "--"]


class Server:
    """Started on `start`; `url(database)` is its address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self._run("initdb", "--auth=trust", "--username=segnas", "--no-sync", "-D", str(folder / "data"))

    def start(self) -> None:
        settings = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off -c shared_buffers=16MB"
        self._control("start", "-o", settings, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        self._control("stop", "-m", "fast")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://segnas@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """The address of a new database."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "segnas", database)
        return self.url(database)

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.folder / "data"), *words)

    def _run(self, program: str, *words: str) -> None:
        command = [*as_postgres(), str(programs() / program), *words]
        done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def running_server() -> Iterator[Server]:
    """Skips the test where there is no PostgreSQL."""
    programs()
    folder = Path(tempfile.mkdtemp(prefix="segnas-postgres-", dir="/tmp"))  # a short path, as its socket needs
    try:
        if as_postgres():
            shutil.chown(folder, "postgres")
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            subprocess.run([*as_postgres(), str(programs() / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
