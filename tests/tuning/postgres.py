"""A PostgreSQL server of the tests' own, on a port of its own, as long as they run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "rislab", "s3cret-w0rd"


def programs() -> Path | None:
    """Folder of the server's programs: on the path, or where Debian puts them, the newest version first."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return folders[-1] if folders else None


@contextmanager
def server() -> Iterator[str]:
    """The URL of a running server's database, password included."""
    place = programs()
    assert place is not None
    # The server refuses to run as root; Debian's package brings a user for it.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="rislab-postgres-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        (folder / "word").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "word"):
                shutil.chown(path, user)

        def call(program: str, *options: str) -> None:
            done = subprocess.run(
                [place / program, *options], user=user, cwd=folder, text=True, capture_output=True, timeout=900
            )
            assert done.returncode == 0, done.stderr + done.stdout

        data = str(folder / "data")
        call("initdb", "-D", data, "-U", USER, "--pwfile", str(folder / "word"), "-A", "scram-sha-256", "--no-sync")
        settings = f"-p {port} -k {folder} -h 127.0.0.1 -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
