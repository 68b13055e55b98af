"""Malformed requests: each one ends in 4xx with one line, on both databases, and leaves nothing behind."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the service needs advreg[harden]")
pytest.importorskip("httpx2", reason="testing the service needs httpx2")

from fastapi.testclient import TestClient

from advreg.hardening.image_decoding import Limits
from advreg.hardening.service import Options, create_app
from advreg.hardening.store import Store, verify
from advreg.hardening.store.audit import head_of
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue
from tests.hardening.conftest import png
from tests.hardening.malformed import FACTS, ROLES, Malformed, every_kind


def clients(store: Store) -> dict[str, TestClient]:
    """Return a client for every role; an exception of the application is a response with status 500."""
    app = create_app(store, Options(limits=Limits(bytes=20_000, pixels=10_000, shape=(1, 28, 28)), burst=1e9, rate=1e9))
    found = {}
    for role, name in ROLES.items():
        bearer = ApiToken(name, Role("submit" if role == "relay" else role), Tier.CUSTOMER, relay=role == "relay")
        headers = {"Authorization": f"Bearer {issue(store, bearer)}"}
        found[role] = TestClient(app, headers=headers, raise_server_exceptions=False)
    return found


def problem(case: Malformed, client: TestClient) -> str:
    """Return what is wrong with the response; empty if nothing is."""
    found = client.request(case.method, case.path, content=case.content, headers=case.headers)
    line = found.json().get("error") if "json" in found.headers["content-type"] else None
    fine = 400 <= found.status_code < 500 and isinstance(line, str) and line and "\n" not in line
    return "" if fine else f"{case.name}: {found.status_code} {found.text[:120]}"


def test_malformed_requests_are_4xx_with_one_line_and_leave_nothing(any_store: Store) -> None:
    sent = clients(any_store)
    example = sent["submit"].post("/v1/examples", content=png(99), params=FACTS).json()["id"]
    sent["review"].get("/v1/queue")
    with any_store.reading() as db:
        before = head_of(db)
    kinds = every_kind(example)
    assert len({case.name for case in kinds}) == len(kinds) >= 200
    problems = [line for case in kinds if (line := problem(case, sent[case.role]))]
    assert not problems, f"{len(problems)} of {len(kinds)}:\n" + "\n".join(problems)
    with any_store.reading() as db:
        assert head_of(db) == before
        assert verify(db) is None
