"""Deadlines and limits of connections, so that a client without a token cannot hold the service.

uvicorn waits for a request's head and body without end and counts no connections per address. `ConnectionGuard` does both at
the protocol, where a connection that never sends a request is seen too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_SWEEP = 0.5  # seconds between two checks of the deadlines
_TIMEOUT = 408, "Request Timeout"
_FULL = 503, "Service Unavailable"


@dataclass(frozen=True)
class ConnectionLimits:
    """Deadlines in seconds and numbers of connections.

    Attributes:
        header_seconds: from the start of a connection, or the end of the last response, to the whole head of a request.
        body_seconds: from the head of a request to the end of its body.
        write_seconds: for a client to read the part of a response that waits.
        total: connections at once.
        per_address: connections at once from one IPv4 address or one IPv6 network of 64 bits.
    """

    header_seconds: float = 10.0
    body_seconds: float = 60.0
    write_seconds: float = 30.0
    total: int = 512
    per_address: int = 128


class Phase(Enum):
    """What a connection is waiting for: a head with a valid token, its body, or our response."""

    HEAD = auto()
    BODY = auto()
    RESPONSE = auto()


@dataclass(eq=False)
class Connection:
    """An open connection, its phase and when that began; ``stalled`` is when its client stopped reading."""

    transport: Any
    address: str
    since: float
    phase: Phase = Phase.HEAD
    stalled: float | None = None

    def enter(self, phase: Phase, now: float) -> None:
        """Enter a phase.

        Args:
            phase: the new phase.
            now: seconds of the guard's clock.
        """
        self.phase, self.since = phase, now

    def overdue(self, now: float, limits: ConnectionLimits) -> bool:
        """Return whether the client has missed a deadline.

        Args:
            now: seconds of the guard's clock.
            limits: the deadlines.
        """
        waits = self.transport.get_write_buffer_size() > 0
        self.stalled = (now if self.stalled is None else self.stalled) if waits else None
        if self.stalled is not None and now - self.stalled > limits.write_seconds:
            return True
        allowed = {Phase.HEAD: limits.header_seconds, Phase.BODY: limits.body_seconds}.get(self.phase)
        return allowed is not None and now - self.since > allowed


@dataclass(eq=False)
class ConnectionGuard:
    """Admits connections, follows their requests, and closes those that miss a deadline.

    Args:
        limits: deadlines and numbers.
        clock: returns seconds.
        open: peer of a connection -> the connection.
    """

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    clock: Callable[[], float] = time.monotonic
    open: dict[Any, Connection] = field(default_factory=dict)
    sweeping: bool = False

    def admit(self, transport: Any) -> bool:
        """Return whether a new connection is admitted; close it otherwise.

        Where there are too many, the oldest one of the same address that waits for a head makes room: half-open connections
        displace each other and never a client.

        Args:
            transport: of asyncio.
        """
        peer = transport.get_extra_info("peername")
        new = Connection(transport, address_of(peer), self.clock())
        if not self._make_room(new.address):
            _end(new, *_FULL)
            return False
        self.open[peer] = new
        if not self.sweeping:
            self.sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        return True

    def forget(self, transport: Any) -> None:
        """Forget a connection that is closed.

        Args:
            transport: of asyncio.
        """
        peer = transport.get_extra_info("peername")
        if peer in self.open and self.open[peer].transport is transport:
            del self.open[peer]

    def _make_room(self, address: str) -> bool:
        counts = Counter(connection.address for connection in self.open.values())
        if counts[address] >= self.limits.per_address:
            return self._displace(address)
        if len(self.open) >= self.limits.total:
            return self._displace(counts.most_common(1)[0][0])
        return True

    def _displace(self, address: str) -> bool:
        waiting = [one for one in self.open.values() if one.address == address and one.phase is Phase.HEAD]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.since)
        self.forget(oldest.transport)
        _end(oldest, *_TIMEOUT)
        return True

    def _sweep(self) -> None:
        now = self.clock()
        for connection in list(self.open.values()):
            if connection.overdue(now, self.limits):
                self.forget(connection.transport)
                _end(connection, *_TIMEOUT)
        self.sweeping = bool(self.open)
        if self.sweeping:
            asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def protocol(self) -> type[H11Protocol]:
        """Return the protocol for `uvicorn.Config(http=...)`: its limit on a head's size holds, which httptools lacks."""
        guard = self

        class GuardedProtocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                guard.admit(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                guard.forget(self.transport)
                super().connection_lost(exc)

            def send_400_response(self, msg: str) -> None:
                self.transport.write(_response(400, "Bad Request", msg))
                self.transport.close()

        return GuardedProtocol


@dataclass(eq=False)
class FollowPhases:
    """ASGI middleware that reports the phase of each request to the guard."""

    app: Any
    guard: ConnectionGuard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application."""
        connection = self.guard.open.get(scope.get("client")) if scope["type"] == "http" else None
        if connection is None:
            await self.app(scope, receive, send)
            return
        clock = self.guard.clock

        async def follow() -> Any:  # the application reads the body of a known token alone
            if connection.phase is Phase.HEAD:
                connection.enter(Phase.BODY, clock())
            message = await receive()
            if not message.get("more_body"):
                connection.enter(Phase.RESPONSE, clock())
            return message

        connection.enter(Phase.HEAD if _has_body(scope) else Phase.RESPONSE, clock())
        try:
            await self.app(scope, follow, send)
        finally:
            connection.enter(Phase.HEAD, clock())


def _has_body(scope: Any) -> bool:
    names = {name: value for name, value in scope["headers"] if name in (b"content-length", b"transfer-encoding")}
    return any(value != b"0" for value in names.values())


def address_of(peer: Any) -> str:
    """Return what connections are counted by: an IPv4 address, or the network of an IPv6 address.

    Args:
        peer: the peer's name, as asyncio gives it.

    Example:
        >>> address_of(("192.0.2.1", 4711)), address_of(("2001:db8::1:2", 4711)), address_of("")
        ('192.0.2.1', '2001:db8::/64', 'local')
    """
    try:
        found = ipaddress.ip_address(peer[0].partition("%")[0])
    except (ValueError, IndexError, TypeError, AttributeError):
        return "local"
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _end(connection: Connection, status: int, reason: str) -> None:
    """Close a connection with a response, or at once where its client reads nothing."""
    if connection.transport.get_write_buffer_size():
        connection.transport.abort()
        return
    line = "too many connections; try again later" if status == _FULL[0] else "the request did not arrive in time"
    connection.transport.write(_response(status, reason, line))
    connection.transport.close()


def _response(status: int, reason: str, line: str) -> bytes:
    body = json.dumps({"error": line}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + body
