"""Headers of every response: nothing is cached, framed, sniffed or sent on as a referrer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders

CLOSED = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Directives of a content security policy that no default covers."""

_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; {CLOSED}",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass(eq=False)
class SecureHeaders:
    """ASGI middleware that adds the headers where the application has set none of that name."""

    app: Any

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Run the application."""

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
