"""Where a search is stored, Optuna's RDBStorage on an SQLite file or a PostgreSQL database; and who trains which trial.

A worker holds a lock on its trial, which the operating system, or the database server, releases with the process,
however that ends. Optuna's heartbeat would report a killed trial only seconds later, and until then other workers would
begin one trial too many.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rislab import files
from rislab.errors import InputError, error_text, require

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import URL, Engine

FILE, LOCKS = "study.sqlite3", "locks"
DRIVER = "postgresql+psycopg"
CONNECT_SECONDS = 10
BUSY_SECONDS = 60  # for which a worker waits while others write the file
# The server drops the connection of a machine that lost its power after a minute; by default after two hours.
KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
NEXT = -1  # the lock under which one worker at a time decides what to do next

IsHeld = Callable[[], bool]
# By number of a trial, and whether to wait; raises Timeout if another worker holds it.
Lock = Callable[[int, bool], AbstractContextManager[IsHeld]]


@dataclass(frozen=True)
class OpenStorage:
    """An open storage."""

    storage: RDBStorage  # for optuna
    address: URL  # of the database
    lock: Lock  # see Lock

    @property
    def name(self) -> str:
        """To be shown and recorded: without a password."""
        return _name(self.address)

    def exclusive(self) -> AbstractContextManager[IsHeld]:
        """Wait until no other worker of this search decides what to do next."""
        return self.lock(NEXT, True)

    def errors(self) -> AbstractContextManager[None]:
        """Raises what the database refuses as an InputError of one sentence."""
        return _errors(self.address)


def open_storage(folder: Path, url: str = "", study: str = "") -> OpenStorage:
    """Open the storage of a search, and make it if there is none.

    Args:
        folder: of the search; holds the SQLite file, if `url` is empty, and its locks.
        url: of a PostgreSQL database, as SQLAlchemy has them.
        study: name in the database, for its locks.

    Raises:
        InputError: without optuna, for a URL that is none, and for a storage that cannot be used. The sentence holds no
            password.
    """
    require("tuning", "tune", "optuna", "sqlalchemy", *(["psycopg"] if url else []))
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    address = _postgresql(url) if url else sqlalchemy.URL.create("sqlite", database=str(folder / FILE))
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
    if url:
        server = f"{address.query.get('options', '')} {KEEPALIVE}".strip()
        options = {"connect_args": {"connect_timeout": CONNECT_SECONDS, "options": server}, "pool_pre_ping": True}
    with _errors(address):
        lock: Lock = _file_lock(folder / LOCKS)
        if url:
            # Without a pool, so that a lock's connection ends with the lock.
            engine = sqlalchemy.create_engine(
                address, **options, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
            )
            lock = _advisory_lock(engine, study)
        # optuna makes its tables without a lock of its own.
        try:
            with lock(NEXT, True):
                storage = optuna.storages.RDBStorage(
                    address.render_as_string(hide_password=False), engine_kwargs=options
                )
        except RuntimeError:
            # Its tables name the version that made them.
            raise InputError(
                f"storage {_name(address)} was made by another version of optuna; "
                "allowed: that version, `optuna storage upgrade`, or a new database"
            ) from None
    return OpenStorage(storage, address, lock)


def _postgresql(url: str) -> URL:
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


def _name(address: URL) -> str:
    """The address without its password and without what follows the database's name; of a file its path."""
    return address.set(query={}).render_as_string() if address.drivername == DRIVER else str(address.database)


@contextmanager
def _errors(address: URL) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(
            f"storage {_name(address)} cannot be used: {_reason(error, address)}; what it holds is unchanged"
        ) from None


def _reason(error: BaseException, address: URL) -> str:
    """The first line of what a database says, without the password."""
    cause = error.__cause__ or error
    first = error_text(getattr(cause, "orig", None) or cause) or type(cause).__name__
    for secret in (address.password, *(text for text in address.query.values() if isinstance(text, str))):
        first = first.replace(str(secret), "***") if secret else first
    return first


def _file_lock(folder: Path) -> Lock:
    @contextmanager
    def lock(number: int, wait: bool) -> Iterator[IsHeld]:
        files.check_writable(folder)
        path = folder / ("next" if number == NEXT else f"{number:04d}")
        with FileLock(path).acquire(blocking=wait, poll_interval=0.01):
            yield lambda: True

    return lock


def _advisory_lock(engine: Engine, study: str) -> Lock:
    """Locks of PostgreSQL, which its server releases with the connection."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    @contextmanager
    def lock(number: int, wait: bool) -> Iterator[IsHeld]:
        # Two 32-bit keys: the study, and the trial.
        keys = {"study": zlib.crc32(study.encode()) - 2**31, "number": number}
        call = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        with engine.connect() as connection:
            if connection.execute(text(f"SELECT {call}(:study, :number)"), keys).scalar() is False:
                raise Timeout(f"trial {number}")

            def is_held() -> bool:
                try:
                    return bool(connection.execute(text("SELECT 1")).scalar())
                except SQLAlchemyError:
                    return False

            try:
                yield is_held
            finally:
                # With the connection the server releases it only after a moment, in which nobody else would get it.
                if is_held():
                    connection.execute(text("SELECT pg_advisory_unlock(:study, :number)"), keys)

    return lock
