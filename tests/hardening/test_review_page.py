"""The review page in a real browser: a reviewer labels, rejects and undoes by keyboard, and the store says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs advreg[harden]")
uvicorn = pytest.importorskip("uvicorn", reason="the service needs advreg[harden]")

from advreg.hardening.service import Options, create_app
from advreg.hardening.store import Store, verify
from advreg.hardening.store.examples import example, receive
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue
from tests.hardening.browser import browsing
from tests.hardening.conftest import png, submission


@pytest.fixture
def url(store: Store, tmp_path: Path) -> Iterator[str]:
    """The service on a port of its own."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "neighbours.npz", images=images, labels=np.arange(20) % 10)
    app = create_app(store, Options(neighbours=tmp_path / "neighbours.npz"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        pass
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_reviewer_labels_rejects_and_undoes_by_keyboard(url: str, store: Store, tmp_path: Path) -> None:
    scores = [[0.9 - 0.2 * k, 0.1 + 0.2 * k, *[0.0] * 8] for k in range(3)]
    given = [submission(k, scores=scores[k], looks=f"{k * 0x1111111111111111:048x}") for k in range(3)]
    given += [submission(7, looks="f" * 48, scores=[0.95, 0.05], model='<img src=x onerror="document.title=1">')]
    names = [receipt.id for receipt in receive(store, given)]

    def said(name: str) -> tuple[str, int | None]:
        with store.reading() as db:
            row = example(db, name)
        return row["state"], row["label"]

    with browsing(tmp_path / "profile") as page:
        page.open(f"{url}/review")
        page.value("document.getElementById('token').value = 'wrong'")
        page.value("document.querySelector('#enter button').click()")
        page.wait("document.getElementById('said').innerText.includes('unknown')")
        page.errors.clear()  # the 401 just provoked
        token = issue(store, ApiToken("rae", Role.REVIEW, Tier.INTERNAL))
        page.value(f"document.getElementById('token').value = {token!r}")
        page.value("document.querySelector('#enter button').click()")
        page.wait("!document.getElementById('work').hidden")
        shown = "document.getElementById('work').dataset.example"
        assert page.value(shown) == names[2], "the smallest margin comes first"
        assert page.value("document.getElementById('image').naturalWidth") == 28
        assert page.value("document.querySelectorAll('#near img').length") == 5
        assert page.value("document.querySelectorAll('#scores .bar').length") == 10
        page.press("7")
        page.wait(f"{shown} !== {names[2]!r}")
        assert said(names[2]) == ("reviewed", 7)
        assert "labelled 7" in page.text("#said")
        page.press("u")
        page.wait(f"{shown} === {names[2]!r}")
        assert said(names[2]) == ("quarantined", None)
        page.press("x")
        page.wait(f"{shown} !== {names[2]!r}")
        assert said(names[2]) == ("rejected", None)
        second = page.value(shown)
        page.value("document.querySelectorAll('#keys button')[4].click()")
        page.wait(f"{shown} !== {second!r} || document.getElementById('work').hidden")
        assert said(str(second)) == ("reviewed", 4)
        while not page.value("document.getElementById('work').hidden"):
            last = page.value(shown)
            assert "onerror" not in page.text("#facts") or page.value("document.title") == "advreg: review"
            page.press("0")
            page.wait(f"{shown} !== {last!r} || document.getElementById('work').hidden")
        assert page.errors == []
        assert page.value("document.querySelectorAll('img[onerror]').length") == 0
    with store.reading() as db:
        assert verify(db) is None
    assert png(7) == store.blobs.get(names[3])
