"""Connections over real sockets: half-open ones displace each other and end at a deadline, and clients are served."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

pytest.importorskip("fastapi", reason="the service needs advreg[harden]")

import uvicorn

from advreg.hardening.image_decoding import Limits
from advreg.hardening.service import Options
from advreg.hardening.service.connections import Connection, ConnectionGuard, ConnectionLimits, Phase, address_of
from advreg.hardening.service.server import server_config
from advreg.hardening.store import Store
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue
from tests.hardening.conftest import png

LIMITS = ConnectionLimits(header_seconds=1.5, body_seconds=1.5, write_seconds=1.5, total=100, per_address=32)
_BODY = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
HEADS = {
    "silent": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
    "half a body": _BODY + b"\r\n[",
    "half a body of a known token": _BODY + b"Authorization: Bearer TOKEN\r\n\r\n[",
}


@dataclass
class Served:
    """A running server with a token, and the half-open connections to it."""

    port: int
    token: str
    held: list[socket.socket] = field(default_factory=list)

    def hold(self, content: bytes) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port))
        made.sendall(content.replace(b"TOKEN", self.token.encode()))
        self.held.append(made)
        return made

    def ask(self, method: str, path: str, content: bytes = b"") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, content, {"Authorization": f"Bearer {self.token}"})
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture
def served(store: Store) -> Iterator[Served]:
    token = issue(store, ApiToken("server", Role.SUBMIT, Tier.CUSTOMER))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = Options(limits=Limits(bytes=20_000, shape=(1, 28, 28)))
    server = uvicorn.Server(server_config(store, options, LIMITS, "127.0.0.1", port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    made = Served(port, token)
    yield made
    for connection in made.held:
        connection.close()
    server.should_exit = True
    thread.join(30)


def rest_of(connection: socket.socket) -> bytes:
    """Return what the service still sends until it closes the connection."""
    connection.settimeout(20)
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("kind", ["silent", "half a head", "half a body"])
def test_256_half_open_connections_leave_clients_served(served: Served, kind: str) -> None:
    for _ in range(256):
        served.hold(HEADS[kind])
    assert [served.ask("GET", "/healthz") for _ in range(5)] == [200] * 5
    paths = [f"/v1/examples?model=m&prediction={k}" for k in range(5)]
    assert [served.ask("POST", path, png(k)) for k, path in enumerate(paths)] == [201] * 5


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_a_half_open_connection_ends_at_its_deadline(served: Served, kind: str) -> None:
    began = time.monotonic()
    found = rest_of(served.hold(HEADS[kind]))
    assert time.monotonic() - began < 15
    status = b"401" if kind == "half a body" else b"408"
    assert found.startswith(b"HTTP/1.1 " + status)
    assert b'{"error"' in found


@pytest.mark.parametrize("kind", ["half a head", "half a body of a known token"])
def test_dripping_bytes_does_not_extend_a_deadline(served: Served, kind: str) -> None:
    connection, began = served.hold(HEADS[kind]), time.monotonic()
    try:
        while time.monotonic() - began < 15:
            connection.sendall(b"a")
            time.sleep(0.1)
    except ConnectionError:
        pass
    assert time.monotonic() - began < 15


def test_a_client_that_reads_nothing_is_cut_off(served: Served) -> None:
    connection = served.hold(b"")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    with pytest.raises(ConnectionError):
        connection.sendall(b"GET /review HTTP/1.1\r\nHost: x\r\n\r\n" * 200_000)


def test_a_request_in_work_and_a_kept_connection_are_not_half_open(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for k in range(3):
        headers = {"Authorization": f"Bearer {served.token}"}
        connection.request("POST", "/v1/examples?model=m&prediction=1", png(k), headers)
        assert connection.getresponse().read()
        time.sleep(0.8)
    connection.close()


def test_a_malformed_head_is_400_with_an_error(served: Served) -> None:
    for content in (b"\0\0\0\0\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"A" * 200_000):
        found = rest_of(served.hold(content))
        assert found.startswith(b"HTTP/1.1 400")
        assert b'{"error"' in found


class Wire:
    """A transport that remembers what was written to it."""

    def __init__(self, peer: object) -> None:
        self.peer, self.written, self.ended = peer, b"", False

    def get_extra_info(self, _: str) -> object:
        return self.peer

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, content: bytes) -> None:
        self.written += content

    def close(self) -> None:
        self.ended = True


def test_busy_connections_are_never_displaced() -> None:
    guard = ConnectionGuard(ConnectionLimits(total=4, per_address=3), clock=lambda: 0.0, sweeping=True)
    wires = [Wire(("192.0.2.1", port)) for port in range(4)]
    assert [guard.admit(wire) for wire in wires[:3]] == [True] * 3
    for connection in guard.open.values():
        connection.enter(Phase.BODY, 0.0)
    assert guard.admit(wires[3]) is False
    assert wires[3].written.startswith(b"HTTP/1.1 503")
    others = [Wire(("192.0.2.2", port)) for port in range(2)]
    assert guard.admit(others[0]) is True
    assert guard.admit(others[1]) is False, "four are open, and the fullest address has none that waits"
    guard.open["192.0.2.1", 1].enter(Phase.HEAD, 0.0)
    assert guard.admit(others[1]) is True
    assert (wires[1].ended, wires[0].ended) == (True, False)


def test_addresses_of_one_ipv6_network_count_together() -> None:
    assert address_of(("2001:db8::1", 1)) == address_of(("2001:db8::ffff:2", 2)) != address_of(("2001:db8:0:1::1", 1))
    assert address_of(("::ffff:192.0.2.1", 1)) == "192.0.2.1"


def test_a_response_in_work_has_no_deadline() -> None:
    connection = Connection(Wire(None), "local", 0.0, Phase.RESPONSE)
    assert not connection.overdue(1e6, LIMITS)
    connection.enter(Phase.HEAD, 1e6)
    assert connection.overdue(1e6 + 2, LIMITS)
