"""JupyterLab and pages without code: on this machine alone and with a token, unless an option says otherwise."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rislab import files
from rislab.errors import InputError, check_number
from rislab.reports import notebooks
from rislab.reports.clean_notebook import cleaned
from rislab.reports.notebooks import tagged

CONFIG = Path(__file__).parent / "static" / "jupyter_config.py"
TEMPLATE = Path(__file__).parent / "static" / "voila.html.j2"
# Content security policy of the pages without code: scripts and styles come from this server or the page itself.
SAME_ORIGIN = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws: wss:"
# A sentence about running cells, which a page without code does not have.
RUN_ALL = re.compile(r"[ \n]?(?<![^\s])[^.:!?|\n]*\bRun All\b[^.!?|]*[.!?]")
COPIED = (".ipynb", ".png", ".svg", ".md")
PAGE = "../docs/conventions"  # from the notebooks; a copy of them has this page, and its picture, beside it
ORIGINALS = ".originals"  # in a working copy: what its files were made of


@dataclass(frozen=True)
class ServerCommand:
    """A command to be started, and what its user must know."""

    command: list[str]  # words
    address: str  # where a browser finds it, its token included
    # variables beyond those there are; a token stands here, where `ps` shows it to nobody else
    environment: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # sentences


def lab_command(folder: Path, *, address: str = "127.0.0.1", port: int = 8888, browser: bool = True) -> ServerCommand:
    """JupyterLab on a folder of notebooks.

    A configuration of the user can neither open it to the network nor remove the token, since ours is read last.

    Args:
        folder: that holds notebooks/, or is it.
        address: to listen on.
        port: to listen on; the next free one if it is taken, and any free one for 0.
        browser: open one.

    Raises:
        InputError: for an address that is none, or a port out of range.
    """
    warnings = _open_to(address)
    check_number("port", port, 0, 65535, integer=True)
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)
    port = free_port(address, port)
    root = folder.resolve()
    # exists() of pathlib raises an error for an impossible name; such a name is refused when the copies are made.
    has_subfolder = os.path.exists(root / "notebooks" / "00_start.ipynb")
    start = "notebooks/00_start.ipynb" if has_subfolder else "00_start.ipynb"
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.ip={address}", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{start}"]
    command += [f"--config={CONFIG}"]
    command += [] if browser else ["--no-browser"]
    if os.geteuid() == 0:
        # JupyterLab refuses root without this option; containers have no other user.
        command += ["--allow-root"]
        warnings.append("this is root, who may do anything on this machine; a user without such rights is safer")
    return ServerCommand(command, f"{_url(address, port)}lab?token={token}", {"JUPYTER_TOKEN": token}, warnings)


def app_command(
    name: str, folder: Path, *, address: str = "127.0.0.1", port: int = 8866, browser: bool = True
) -> ServerCommand:
    """A live panel as a page without code, by Voilà: a visitor turns knobs, and cannot run anything else.

    Args:
        name: of a notebook without its number; its cells tagged "app" make the page.
        folder: where the notebook of the page and its template are written, and the runs of its visitors.
        address: to listen on.
        port: to listen on, from 1.
        browser: open one.

    Raises:
        InputError: for an unknown notebook or one without a panel, an address that is none, or a port
            out of range.
    """
    page = page_of(name)
    warnings = _open_to(address)
    check_number("port", port, 1, 65535, integer=True)
    path = folder / f"{name}.ipynb"
    files.replace(path, page.encode())
    command = [sys.executable, "-m", "voila", str(path), f"--Voila.ip={address}", f"--Voila.port={port}"]
    command += ["--VoilaConfiguration.strip_sources=True", "--VoilaConfiguration.show_tracebacks=False"]
    command += ["--VoilaConfiguration.template=rislab"]
    template = folder / "share" / "voila" / "templates" / "rislab"
    files.replace(template / "conf.json", b'{"base_template": "lab"}')
    files.replace(template / "index.html.j2", TEMPLATE.read_bytes())
    paths = [str(folder / "share"), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    # A page that is closed shuts its kernel down. Voilà sends no XSRF cookie with that request, and the kernel's random
    # id protects it. A kernel whose page could not send the request ends after two minutes without a page.
    settings = {"headers": {"Content-Security-Policy": SAME_ORIGIN}, "disable_check_xsrf": True}
    command += [f"--Voila.tornado_settings={settings!r}"]
    command += [f"--MappingKernelManager.cull_{name}" for name in ("idle_timeout=120", "interval=30")]
    command += [] if browser else ["--no-browser"]
    return ServerCommand(command, _url(address, port), {"JUPYTER_PATH": os.pathsep.join(paths)}, warnings)


def free_port(address: str, port: int) -> int:
    """The first free port from this one on, of fifty; any free one for 0.

    Raises:
        InputError: if there is none.
    """
    for each in range(port, min(port + 50, 65536)) if port else (0,):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, each))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                return port  # the server itself says what is wrong with the address
            return int(probe.getsockname()[1])
    raise InputError(f"port is {port}, and neither it nor one of the next is free on {address}; allowed: another one")


def _url(address: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    return f"http://{shown}:{port}/"


def way_in(server: ServerCommand) -> str:
    """How a browser gets in where none opens by itself: the address with its token, and from elsewhere a tunnel."""
    lines = [f"If no browser opens: {server.address}"]
    if os.environ.get("SSH_CONNECTION"):
        port = urlsplit(server.address).port
        lines.append(f"From your own machine first: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}")
    return "\n".join(lines)


def page_of(name: str) -> str:
    """The notebook of a page, as JSON: the cells of a notebook that are tagged "app", in their order.

    Raises:
        InputError: for an unknown notebook, or one without such cells.
    """
    pages = {each: tagged(notebooks.read_notebook(path), "app") for each, path in notebooks.available().items()}
    notebook = notebooks.read_notebook(notebooks.find_notebook(name))
    if not pages[name]:
        able = ", ".join(each for each, cells in pages.items() if cells)
        raise InputError(f"notebook {name} has no live panel to be served; allowed: {able}")
    notebook.cells = pages[name]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = RUN_ALL.sub("", cell.source)
    return notebooks.notebook_json(notebook)


def run_server(server: ServerCommand) -> int:
    """Run a server until it ends or is interrupted; returns its exit code."""
    _warn(server)
    process = subprocess.Popen(server.command, env={**os.environ, **server.environment})
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal interrupts the server too.
        process.wait()
        return 130


def _warn(server: ServerCommand) -> None:
    for warning in server.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def exec_server(server: ServerCommand) -> int:
    """Become the server; returns only if it cannot be started."""
    _warn(server)
    os.execve(server.command[0], server.command, {**os.environ, **server.environment})


def _open_to(address: str) -> list[str]:
    """A warning if others can reach an address; raises InputError if it is none."""
    if address == "localhost":
        return []
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        raise InputError(f"ip is {address!r}; allowed: an IP address, such as 127.0.0.1") from None
    if known.is_loopback:
        return []
    return [
        f"{address} can be reached by other machines, and whoever has address and token runs code on this one; "
        "127.0.0.1 cannot"
    ]


def working_copy(folder: Path, content: Callable[[Path], bytes] = Path.read_bytes) -> tuple[list[str], list[str]]:
    """Copy the notebooks to work in, so that the originals stay clean.

    What is there already stays as it is, unless nobody changed it and the original is newer.

    Args:
        folder: of the copies; made if there is none.
        content: of the copy of a notebook.

    Returns:
        Names of the files that were copied, and of those that were there.

    Raises:
        InputError: if the folder cannot be written, or is that of the originals.
    """
    originals = next(iter(notebooks.available().values())).parent
    if folder.resolve() == originals.resolve():
        raise InputError(f"{folder} holds the originals; allowed: another folder")
    copied, present = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*sorted(originals.iterdir()), *sorted(originals.glob(f"{PAGE}.*"))):
            if path.suffix not in COPIED or path.name.startswith("."):
                continue
            target, original = folder / path.name, folder / ORIGINALS / path.name
            fresh = content(path) if path.suffix == ".ipynb" else path.read_bytes()
            fresh = fresh.replace(f"({PAGE}.".encode(), f"({Path(PAGE).name}.".encode())
            if target.exists() and not _untouched(target, original, fresh):
                present.append(path.name)
                continue
            for each in (target, original):
                files.replace(each, fresh)
            copied.append(path.name)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be used: {error.strerror}") from error
    return copied, present


def _untouched(copy: Path, original: Path, fresh: bytes) -> bool:
    """Whether a copy is unchanged, outputs aside, and its original is newer."""
    if not original.exists() or original.read_bytes() == fresh:
        return False
    if copy.suffix != ".ipynb":
        return copy.read_bytes() == original.read_bytes()
    before, now = (cleaned(path.read_bytes().decode("utf-8", "replace")) for path in (original, copy))
    return before == now
