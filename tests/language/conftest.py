"""Runs of these tests are made of models of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from advreg.language import chat_service
from advreg.plugins import trusting
from tests.language.service import KEY, Service


@pytest.fixture(autouse=True, scope="package")
def _trust_own_networks() -> Iterator[None]:
    """Runs of these tests are made of networks of these tests, which only trusted run folders may name."""
    with trusting(True):
        yield


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A local server with the OpenAI chat API; the variable JUDGE_KEY holds its key."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(chat_service, "_PAUSE", 0.001)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    running = Service()
    yield running
    running.close()
