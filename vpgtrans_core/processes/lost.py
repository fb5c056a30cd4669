"""Notice a machine that is lost: it has no power any more, or no network.

Its connections do not end then, and whoever waits for it would wait for hours. So every process holds a connection to
the first one over which nothing is sent, and asks its operating system to probe it. The other machine's system answers,
not the process: one that computes, writes a large file or is stopped is not taken for lost. Where no answer comes, all
connections to that machine are shut, so that what waits for it fails at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

IDLE, EVERY, TIMES = 20, 5, 8
"""Seconds until a silent connection is probed first, seconds between two probes, and how many may stay unanswered."""
PATIENCE = 40.0
"""Seconds that a process may still wait for a lost machine after its connections were shut."""
HELLO = 10.0
"""Seconds in which another process connects and says who it is."""
UNREACHABLE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)

Other = tuple[str, str]
"""Another process's name, and the address of its machine."""

losses: list[str] = []
"""What was lost, as sentences; `vpgtrans_core.processes.heartbeat.other_processes` tells the first."""


def several_machines() -> bool:
    """Whether the launcher says that the processes are on more than one machine."""
    return os.environ.get("LOCAL_WORLD_SIZE", "") not in ("", os.environ.get("WORLD_SIZE", ""))


def watch_machines(rank: int, store: Any, waits: Callable[[], bool]) -> None:
    """Watch the connection to the first process; in the first, those to all others. Returns at once.

    Args:
        rank: this process's number.
        store: what the processes share; for this alone.
        waits: says whether this process is waiting for others.
    """
    work = _watch_others if rank == 0 else _watch_first

    def watch() -> None:
        with contextlib.suppress(Exception):  # no connection, nothing to watch: the run goes on as it is
            work(rank, store, waits)

    threading.Thread(target=watch, name="machines", daemon=True).start()


def _watch_others(rank: int, store: Any, waits: Callable[[], bool]) -> None:
    token = uuid.uuid4().hex
    with _listening() as server, selectors.DefaultSelector() as selector:
        store.set("first", f"{server.getsockname()[1]} {token} {socket.gethostname()}")
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is server:
                    connection, _ = server.accept()
                    if (other := _greeted(connection, token)) is not None:
                        selector.register(connection, selectors.EVENT_READ, other)
                elif _ended(key.fileobj, key.data, waits):
                    selector.unregister(key.fileobj)


def _watch_first(rank: int, store: Any, waits: Callable[[], bool]) -> None:
    port, token, host = store.get("first").decode().split(" ", 2)
    connection = socket.create_connection((os.environ["MASTER_ADDR"], int(port)), timeout=HELLO)
    connection.settimeout(None)
    connection.sendall(f"{token} process {rank} on {socket.gethostname()}\n".encode())
    _probe(connection)
    while not _ended(connection, (f"process 0 on {host}", _peer(connection)), waits):
        pass


def _listening() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _greeted(connection: socket.socket, token: str) -> Other | None:
    """The process at the other end; None for whoever is no process of this run."""
    connection.settimeout(HELLO)
    try:
        with connection.makefile("rb") as lines:
            said, _, name = lines.readline(1000).decode(errors="replace").strip().partition(" ")
    except OSError:
        said, name = "", ""
    if said != token:
        connection.close()
        return None
    connection.settimeout(None)
    _probe(connection)
    return name, _peer(connection)


def _probe(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", EVERY), ("TCP_KEEPCNT", TIMES)):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _ended(connection: Any, other: Other, waits: Callable[[], bool]) -> bool:
    """Wait for a connection's end, and act where its machine is lost; a process that ends, as it may, is not that."""
    try:
        if connection.recv(1):
            return False
    except OSError as error:
        if error.errno in UNREACHABLE:
            _lose(*other, waits)
    connection.close()
    return True


def _lose(name: str, address: str, waits: Callable[[], bool]) -> None:
    losses.append(f"{name} cannot be reached any more: its machine is down, or the network between the two")
    for other in _connections():
        if address and _peer(other) == address:
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)
    threading.Thread(target=_end, args=(waits,), name="lost", daemon=True).start()


def _end(waits: Callable[[], bool]) -> None:
    """End this process where it goes on waiting: not all that processes wait for is a connection of ours."""
    since = time.monotonic()
    while time.monotonic() - since < PATIENCE:
        time.sleep(1.0)
        if not waits():  # it may be writing the finished model, which needs nobody else
            since = time.monotonic()
    print(f"error: {losses[0]}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _connections() -> Iterator[socket.socket]:
    """This process's TCP connections, where the system shows them."""
    folder = "/proc/self/fd"
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with contextlib.suppress(OSError):
            if os.readlink(f"{folder}/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as connection:
                    if connection.family in (socket.AF_INET, socket.AF_INET6):
                        yield connection


def _peer(connection: socket.socket) -> str:
    """The address at the other end, an IPv4 one in its plain form; empty for a connection that is not or no more."""
    try:
        return str(connection.getpeername()[0]).removeprefix("::ffff:")
    except OSError:
        return ""
