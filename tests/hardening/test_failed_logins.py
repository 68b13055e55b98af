"""Wrong tokens over real sockets, at the default limits: 429 with Retry-After, by address and by token."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

pytest.importorskip("fastapi", reason="the service needs advreg[harden]")

import uvicorn

from advreg.hardening.config import HardeningConfig
from advreg.hardening.service import Options, auth, rate_limit
from advreg.hardening.service.connections import ConnectionLimits
from advreg.hardening.service.rate_limit import Buckets
from advreg.hardening.service.server import server_config
from advreg.hardening.store import Store
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue

ALLOWED = HardeningConfig().service.failed_logins


@dataclass(frozen=True)
class Served:
    """A running server and a valid token."""

    port: int
    token: str

    def login(self, token: str, address: str = "127.0.0.1") -> tuple[int, float]:
        """Return the status of a request from an address, and the seconds of Retry-After."""
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(address, 0))
        made.request("GET", "/v1/examples/none", headers={"Authorization": f"Bearer {token}"})
        response = made.getresponse()
        made.close()
        return response.status, float(response.headers.get("Retry-After", 0))


@pytest.fixture
def served(store: Store) -> Iterator[Served]:
    token = issue(store, ApiToken("server", Role.SUBMIT, Tier.CUSTOMER))
    server = uvicorn.Server(server_config(store, Options(), ConnectionLimits(), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Served(server.servers[0].sockets[0].getsockname()[1], token)
    server.should_exit = True
    thread.join(30)


def test_address_that_sends_wrong_tokens_has_to_wait(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_REMEMBER", 0.0)  # every request looks its token up
    looked_up: list[str] = []
    monkeypatch.setattr(
        auth, "bearer_of", lambda store, token, real=auth.bearer_of: looked_up.append(token) or real(store, token)
    )
    statuses = [served.login(f"guess-{k}")[0] for k in range(3 * ALLOWED)]
    assert statuses[:ALLOWED] == [401] * ALLOWED
    assert statuses.count(401) <= ALLOWED + 2, "a token or two come back while the requests are sent"
    assert len(looked_up) == statuses.count(401), "the store is not asked beyond the limit"
    assert served.login(served.token, "127.0.0.2")[0] == 404, "other addresses log in; there is no such example"
    assert served.login(served.token)[0] == 404, "a token that was valid here before never waits"
    status, seconds = served.login("one more")
    assert (status, 1 <= seconds <= 60 / ALLOWED) == (429, True)
    time.sleep(seconds)
    assert served.login("one more")[0] == 401


def test_wrong_token_has_to_wait_from_any_address(served: Served) -> None:
    statuses = [served.login("stolen and revoked", f"127.0.0.{k + 2}")[0] for k in range(ALLOWED + 5)]
    assert statuses[:ALLOWED] == [401] * ALLOWED
    assert 429 in statuses[ALLOWED:]
    assert served.login("another one", "127.0.0.2")[0] == 401


def test_forgotten_buckets_are_the_full_and_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_MOST", 10)
    now = [0.0]
    buckets = Buckets(rate=1.0, burst=1.0, clock=lambda: now[0])
    for k in range(100):
        buckets.take(f"early {k}")
        assert len(buckets.levels) <= 10
    now[0] = 5.0
    buckets.take("late")
    assert buckets.wait("late") == 1.0
    for k in range(10):
        buckets.take(f"later {k}")
    assert not any(name.startswith("early") for name in buckets.levels)
    assert buckets.wait("early 99") == 0.0
