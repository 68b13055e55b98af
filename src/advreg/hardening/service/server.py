"""The server: uvicorn with `ConnectionGuard` in front of the application."""

from __future__ import annotations

import uvicorn

from advreg.hardening.service.app import create_app
from advreg.hardening.service.auth import Options
from advreg.hardening.service.connections import ConnectionGuard, ConnectionLimits, FollowPhases
from advreg.hardening.store.database import Store


def run_server(store: Store, options: Options, limits: ConnectionLimits, host: str, port: int) -> None:
    """Serve until interrupted.

    Args:
        store: the store of the workspace.
        options: limits, classes and medium.
        limits: deadlines and numbers of connections.
        host: address to listen on.
        port: port to listen on.
    """
    uvicorn.Server(server_config(store, options, limits, host, port)).run()


def server_config(store: Store, options: Options, limits: ConnectionLimits, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's configuration; headers of proxies are not believed, because connections are counted by address.

    Args:
        store: the store of the workspace.
        options: limits, classes and medium.
        limits: deadlines and numbers of connections.
        host: address to listen on.
        port: port to listen on.

    Returns:
        The configuration for `uvicorn.Server`.
    """
    guard = ConnectionGuard(limits)
    return uvicorn.Config(
        FollowPhases(create_app(store, options), guard),
        host=host,
        port=port,
        http=guard.protocol(),
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )
