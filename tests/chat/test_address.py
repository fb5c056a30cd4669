"""Where the page may be served, and who needs a password."""

from __future__ import annotations

import socket

import pytest

from vpgtrans_core.chat.address import choose_address, is_loopback
from vpgtrans_core.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_this_machine_alone_needs_no_password() -> None:
    address = choose_address("127.0.0.1", 0, None)
    assert address.password is None and address.warning is None and address.port > 0


def test_others_get_a_warning_and_need_a_password() -> None:
    made, given = choose_address("0.0.0.0", 0, None), choose_address("0.0.0.0", 0, "secret")
    assert made.password and len(made.password) > 12 and made.password in str(made.warning)
    assert given.password == "secret" and "not encrypted" in str(given.warning)
    assert choose_address("0.0.0.0", 0, None).password != made.password


def test_a_taken_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used") as error:
            choose_address("127.0.0.1", port, None)
        assert "--port" in error.value.hint


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    with pytest.raises(ConfigError):
        choose_address(host, 0, None)


def test_an_empty_password_is_none() -> None:
    with pytest.raises(ConfigError, match="the password is empty"):
        choose_address("0.0.0.0", 0, "")
