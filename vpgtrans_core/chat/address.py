"""Where the page is served, and who may see it."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass

from vpgtrans_core.errors import ConfigError

USER = "vpgt"
"""The user's name where a password is asked for."""
PORT = 7860


@dataclass(frozen=True)
class Address:
    """Host, port and password of a page; without a password everybody on this machine may open it."""

    host: str
    port: int
    password: str | None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def warning(self) -> str | None:
        """What a person should know of an address that others can reach."""
        if is_loopback(self.host):
            return None
        return (
            f"others on the network can reach {self.url}, and what they and you send is not encrypted; they need the "
            f"user {USER!r} and the password {self.password!r}. An SSH tunnel to 127.0.0.1 needs neither."
        )


def choose_address(host: str, port: int, password: str | None) -> Address:
    """Check that a page can be served there, before a model is loaded for it.

    Args:
        host: a name or an IP address of this machine.
        port: 0 for any that is free.
        password: None for none on loopback, and for a new one anywhere else.

    Raises:
        ConfigError: the host is not this machine's, or the port is taken or not allowed.
    """
    if password == "":
        raise ConfigError(["the password is empty"], "leave it out: where one is needed, a new one is made")
    if not is_loopback(host):
        password = password or secrets.token_urlsafe(12)
    return Address(host, _free_port(host, port), password)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _free_port(host: str, port: int) -> int:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return probe.getsockname()[1]
    except socket.gaierror as error:
        raise ConfigError([f"there is no host {host!r}: {error.strerror}"], "this machine is 127.0.0.1") from error
    except OSError as error:
        what = f"port {port} of {host} cannot be used: {error.strerror}"
        raise ConfigError([what], "choose another with --port, or any that is free with --port 0") from error
