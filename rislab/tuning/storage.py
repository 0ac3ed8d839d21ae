"""Where a search is kept: a journal file, or a PostgreSQL database that many machines share; and who works on what.

A claim is a lock that the operating system or the database server drops with the process that holds it, however that
ends: no heartbeat, no clock, nothing to clean up after a kill.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock

from rislab import files
from rislab.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.storages.journal import BaseJournalBackend

JOURNAL = "journal.log"
DRIVER = "postgresql+psycopg"
CONNECT_SECONDS = 10


class Claims(Protocol):
    """Locks of one search."""

    def alone(self) -> AbstractContextManager[object]:
        """Wait until no other worker of this search decides what to do next."""

    def take(self, number: int) -> Claim | None:
        """The claim on a trial, or None while another worker holds it."""


class Claim(Protocol):
    """A trial that is this worker's until release()."""

    def held(self) -> bool:
        """Whether it still is."""

    def release(self) -> None:
        """Let others have it."""


@dataclass(frozen=True)
class Kept:
    """An open storage.

    Args:
        storage: for optuna. claims: see Claims. name: to be shown and recorded, without a password.
    """

    storage: BaseStorage
    claims: Claims
    name: str


def opened(folder: Path, url: str = "", study: str = "") -> Kept:
    """Open the storage of a search, and make it if there is none.

    Args:
        folder: of the search; holds the journal file, if `url` is empty.
        url: of a PostgreSQL database, as SQLAlchemy has them. study: name in the database, for its locks.

    Raises:
        InputError: without optuna, for a URL that is none, and for a storage that cannot be used. The sentence holds no
            password.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("tuning needs optuna, which is not installed; allowed: pip install 'rislab[tune]'") from None
    if not url:
        return _journal(folder)
    name = shown(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _database(url, study, name)


def shown(url: str) -> str:
    """A database URL as it may be printed and recorded: the password starred, and nothing behind the database's name.

    Raises:
        InputError: for text that is no URL of PostgreSQL.
    """
    return str(_address(url).set(query={}).render_as_string(hide_password=True))


def _address(url: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    allowed = "allowed: postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise InputError(f"storage is no URL; {allowed}") from None
    if address.drivername not in (DRIVER, "postgresql"):
        raise InputError(f"storage is of the kind {address.drivername!r}; {allowed}")
    return address.set(drivername=DRIVER)


# ----------------------------------------------------------------------------------------------------- the journal file


def journal_backend(path: Path) -> BaseJournalBackend:
    """A journal that a kill or a full disk cannot damage.

    optuna's own file backend leaves a lock file behind when its process is killed, which holds others up for half a
    minute, and half a line when the disk is full, which the next line would then join.

    Args:
        path: of the file; made if there is none.
    """
    from optuna.storages.journal import BaseJournalBackend

    class Journal(BaseJournalBackend):
        def __init__(self) -> None:
            self._known: list[dict[str, Any]] = []
            self._read = 0
            with _writing(path):
                path.touch()

        def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
            with path.open("rb") as handle:
                handle.seek(self._read)
                whole, newline, _ = handle.read().rpartition(b"\n")
            self._read += len(whole) + len(newline)
            lines = whole.split(b"\n") if newline else []
            try:
                self._known += [json.loads(line) for line in lines]
            except (ValueError, RecursionError):
                raise InputError(f"{path} is damaged; allowed: the file that rislab wrote") from None
            return self._known[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
            with _writing(path), path.open("r+b", buffering=0) as handle:
                # What stands after the last newline was cut off while it was written, and never read by anyone.
                end = _end_of_lines(handle)
                handle.truncate(end)
                handle.seek(end)
                try:
                    if handle.write(content) != len(content):
                        raise OSError(28, os.strerror(28))
                    os.fsync(handle.fileno())
                except OSError:
                    handle.truncate(end)
                    raise

    return Journal()


def _end_of_lines(handle: Any) -> int:
    """Position after the last newline of a file."""
    end = handle.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        handle.seek(start)
        found = handle.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Alone with a journal; what goes wrong there is one sentence."""
    try:
        with FileLock(path.with_suffix(".lock")).acquire(poll_interval=0.01):
            yield
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror}; what was in it is unchanged") from error


def _journal(folder: Path) -> Kept:
    from optuna.storages import JournalStorage

    return Kept(JournalStorage(journal_backend(folder / JOURNAL)), FileClaims(folder / "claims"), JOURNAL)


class FileClaims:
    """Claims as locks on files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def alone(self) -> AbstractContextManager[object]:
        """See Claims."""
        files.check_writable(self._folder)
        return FileLock(self._folder / "next").acquire(poll_interval=0.01)

    def take(self, number: int) -> Claim | None:
        """See Claims."""
        handle = os.open(self._folder / f"{number:04d}", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return FileClaim(handle)


@dataclass
class FileClaim:
    """A locked file."""

    handle: int

    def held(self) -> bool:
        """See Claim."""
        return True

    def release(self) -> None:
        """See Claim."""
        os.close(self.handle)


# -------------------------------------------------------------------------------------------------------- the database


def _database(url: str, study: str, name: str) -> Kept:
    import sqlalchemy
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    address = _address(url)
    options = {"connect_args": {"connect_timeout": CONNECT_SECONDS}, "pool_pre_ping": True}
    try:
        claims = DatabaseClaims(sqlalchemy.create_engine(address, **options), study)
        # optuna makes its tables without a lock of its own.
        with claims.alone():
            storage = RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=options)
    except SQLAlchemyError as error:
        raise InputError(f"storage {name} cannot be used: {reason(error, url)}") from None
    except ModuleNotFoundError:
        raise InputError(
            f"storage {name} needs psycopg, which is not installed; allowed: pip install 'rislab[tune]'"
        ) from None
    except RuntimeError:
        # optuna's tables name the version that made them.
        raise InputError(
            f"storage {name} was made by another version of optuna; "
            "allowed: that version, `optuna storage upgrade`, or a new database"
        ) from None
    return Kept(storage, claims, name)


def reason(error: BaseException, url: str) -> str:
    """The first line of what a database says, without the password."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    first = said.splitlines()[0]
    address = _address(url)
    for secret in (address.password, *(text for text in address.query.values() if isinstance(text, str))):
        first = first.replace(str(secret), "***") if secret else first
    return first


class DatabaseClaims:
    """Claims as advisory locks of PostgreSQL, which its server drops with the connection."""

    NEXT = -1

    def __init__(self, engine: Any, study: str) -> None:
        self._engine = engine
        # Two 32-bit keys: the study, and the trial.
        self._study = zlib.crc32(study.encode()) - 2**31

    def _connection(self) -> Any:
        from sqlalchemy import text

        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # A machine that lost its power is given up after a minute, not after the two hours of the default.
        for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
            connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
        return connection

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See Claims."""
        from sqlalchemy import text

        with self._connection() as connection:
            keys = {"study": self._study, "number": self.NEXT}
            connection.execute(text("SELECT pg_advisory_lock(:study, :number)"), keys)
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:study, :number)"), keys)

    def take(self, number: int) -> Claim | None:
        """See Claims."""
        from sqlalchemy import text

        connection = self._connection()
        keys = {"study": self._study, "number": number}
        if connection.execute(text("SELECT pg_try_advisory_lock(:study, :number)"), keys).scalar():
            return DatabaseClaim(connection)
        connection.close()
        return None


@dataclass
class DatabaseClaim:
    """A connection that holds a lock."""

    connection: Any

    def held(self) -> bool:
        """See Claim."""
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return bool(self.connection.execute(text("SELECT 1")).scalar())
        except SQLAlchemyError:
            return False

    def release(self) -> None:
        """See Claim."""
        # Closed for good, not given back to the pool: the lock goes with it.
        self.connection.invalidate()
        self.connection.close()
