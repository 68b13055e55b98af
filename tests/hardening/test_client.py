"""The client: the caller's serving is never blocked, slowed or broken, and every example is accounted for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from advreg.hardening.client import Client
from advreg.hardening.image_decoding import Limits, decode


class Desk:
    """A service that answers as it is told and remembers what it got."""

    def __init__(self) -> None:
        self.status, self.delay, self.bodies, self.release = 201, 0.0, [], threading.Event()
        desk = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                import json

                items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                desk.release.wait(desk.delay)
                status = desk.status(items) if callable(desk.status) else desk.status
                if status == 201:
                    desk.bodies.append((items, self.headers["Authorization"]))
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"[]")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def items(self) -> list[dict]:
        return [item for items, _ in self.bodies for item in items]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.release.set()
    made.server.shutdown()
    made.server.server_close()


def test_everything_recorded_arrives_with_its_facts(desk: Desk) -> None:
    client = Client(desk.url, "secret", "m1")
    for k in range(150):
        assert client.record(f"bytes {k}".encode(), prediction=k % 10, scores=[0.5, 0.5], principal="ann", claimed=3)
    client.close(120)
    assert client.counts == {"sent": 150}
    assert len(desk.items) == 150
    first = desk.items[0]
    kept = {key: first[key] for key in ("prediction", "scores", "principal", "claimed", "model")}
    assert kept == {"prediction": 0, "scores": [0.5, 0.5], "principal": "ann", "claimed": 3, "model": "m1"}
    assert desk.bodies[0][1] == "Bearer secret"


def test_texts_arrive_exactly_with_the_answer(desk: Desk) -> None:
    client = Client(desk.url, "t", "m1")
    assert client.record("How? \u2603", "Like this.")
    assert client.record("How?", None)
    assert client.record("half a pair \ud800", None) is False
    client.close(120)
    assert [(item["text"], item.get("prediction")) for item in desk.items] == [
        ("How? \u2603", "Like this."),
        ("How?", None),
    ]
    assert client.counts == {"sent": 2, "refused": 1}


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28),
        np.arange(784).reshape(28, 28).astype(np.uint8),
        np.linspace(0, 1, 784).reshape(28, 28).T,
        torch.linspace(0, 1, 784).view(1, 28, 28),
        torch.linspace(0, 1, 784).view(1, 28, 28).requires_grad_(),
    ],
)
def test_arrays_arrive_exactly(desk: Desk, array) -> None:
    import base64

    client = Client(desk.url, "t", "m1")
    client.record(array, prediction=1)
    client.close(120)
    assert client.counts["sent"] == 1
    pixels = decode(base64.b64decode(desk.items[0]["data"]), Limits())[1]
    given = array.detach().numpy() if isinstance(array, torch.Tensor) else array
    scale = 255 if given.dtype == np.uint8 else 1
    np.testing.assert_allclose(pixels.reshape(given.shape), given / scale, atol=1e-7)


def test_a_service_that_hangs_costs_the_caller_nothing_and_overflow_is_dropped(desk: Desk) -> None:
    desk.delay = 100.0
    client = Client(desk.url, "t", "m1", capacity=20, timeout=200)
    began = time.perf_counter()
    results = [client.record(b"x" * 1000, prediction=1) for _ in range(500)]
    assert time.perf_counter() - began < 50, "one answer takes 100 s: whoever waits for it is later than this"
    desk.release.set()
    assert client.counts["dropped"] == results.count(False) >= 500 - 20 - 64
    client.close(120)
    assert client.counts["sent"] + client.counts["dropped"] == 500


def test_a_service_that_is_down_or_failing_is_tried_again_then_counted(desk: Desk) -> None:
    nobody = Client("http://127.0.0.1:9", "t", "m1", tries=2, wait=0.01)
    nobody.record(b"x", prediction=1)
    nobody.close(120)
    assert nobody.counts == {"failed": 1}
    answers = iter([503, 429, 201])
    desk.status = lambda _: next(answers)
    client = Client(desk.url, "t", "m1", wait=0.01)
    client.record(b"x", prediction=1)
    client.close(120)
    assert client.counts == {"sent": 1}


def test_one_bad_example_spoils_no_other_and_a_bad_token_is_not_tried_for_each(desk: Desk) -> None:
    import base64

    bad = base64.b64encode(b"bad").decode()
    desk.status = lambda items: 422 if any(item["data"] == bad for item in items) else 201
    client = Client(desk.url, "t", "m1")
    for content in (b"a", b"bad", b"b", b"c"):
        client.record(content, prediction=1)
    client.close(120)
    assert client.counts == {"sent": 3, "refused": 1}
    asked = []
    desk.status = lambda items: asked.append(1) or 401
    client = Client(desk.url, "t", "m1")
    for _ in range(30):
        client.record(b"a", prediction=1)
    client.close(120)
    assert client.counts == {"refused": 30}
    assert len(asked) < 30


def test_nothing_ever_raises_into_the_caller(desk: Desk) -> None:
    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    client = Client(desk.url, "t", "m1")
    for example in (None, 3, "text", Hostile(), np.zeros(3, dtype=complex), [1, 2], b"x" * (5 << 20)):
        assert client.record(example, prediction=1) is False
    assert client.record(b"x", prediction="three") is False  # type: ignore[arg-type]
    assert client.record(b"x", prediction=1, scores=["a"]) is False  # type: ignore[list-item]
    assert client.counts == {"refused": 9}
    client.close(120)
    assert client.record(b"x", prediction=1) is False


def test_sampling_keeps_about_its_share(desk: Desk) -> None:
    client = Client(desk.url, "t", "m1", sample=0.25, capacity=5000)
    for _ in range(2000):
        client.record(b"x", prediction=1)
    client.close(120)
    assert client.counts["sent"] + client.counts["skipped"] == 2000
    assert 400 < client.counts["sent"] < 600


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_server_process_records_its_own(desk: Desk) -> None:
    code = (
        "import os, sys\nfrom advreg.hardening.client import Client\n"
        f"client = Client({desk.url!r}, 't', 'm1')\nclient.record(b'parent', 1)\nclient.flush()\n"
        "child = os.fork()\nif child == 0:\n    client.record(b'child', 2)\n    client.close(120)\n    os._exit(0)\n"
        "os.waitpid(child, 0)\nclient.close(120)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert sorted(item["prediction"] for item in desk.items) == [1, 2]


def test_nothing_that_serves_imports_torch() -> None:
    rooms = [
        "client",
        "store",
        "store.examples",
        "store.tokens",
        "service",
        "data_selection",
        "gate",
        "ingestion",
        "perceptual_hash",
        "states",
    ]
    imports = "\n".join(f"import advreg.hardening.{room}" for room in rooms)
    code = f"import sys\n{imports}\nassert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    only = "import sys\nbefore = set(sys.modules)\nimport advreg.hardening.client\n"
    found = subprocess.run(
        [sys.executable, "-c", only + "print(*set(sys.modules) - before)"], capture_output=True, text=True, check=True
    )
    others = {name.partition(".")[0] for name in found.stdout.split()} - set(sys.stdlib_module_names)
    assert others == {"advreg"}


@pytest.mark.parametrize("status", [500, 503, 413])
def test_an_example_that_fails_the_service_costs_no_other(desk: Desk, status: int) -> None:
    import base64

    bad = base64.b64encode(b"bytes 7").decode()
    desk.status = lambda items: status if any(item["data"] == bad for item in items) else 201
    client = Client(desk.url, "t", "m1", wait=0.01)
    for k in range(80):
        client.record(f"bytes {k}".encode(), prediction=1)
    client.close(120)
    assert client.counts == {"sent": 79, "refused" if status == 413 else "failed": 1}


def test_a_service_that_stays_down_is_sent_each_example_once_more(desk: Desk) -> None:
    asked = []
    desk.status = lambda items: asked.append(len(items)) or 503
    client = Client(desk.url, "t", "m1", wait=0.001, tries=2)
    for k in range(10):
        client.record(f"bytes {k}".encode(), prediction=1)
    client.close(120)
    assert client.counts == {"failed": 10}
    assert len(asked) <= 2 * 10 + 10
