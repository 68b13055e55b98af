"""The service: what is acknowledged is stored, what is refused leaves nothing, and nobody does what is not theirs."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs advreg[harden]")
pytest.importorskip("httpx2", reason="testing the service needs httpx2")

import sqlalchemy as sa
from fastapi.testclient import TestClient
from fsspec.implementations.local import LocalFileSystem

from advreg.hardening.image_decoding import Limits, decode
from advreg.hardening.ingestion import ingest
from advreg.hardening.service import Options, create_app, schemas
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store import Store, verify
from advreg.hardening.store.examples import examples_in_state, move
from advreg.hardening.store.tables import examples
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue, revoke_token
from tests.hardening.conftest import png
from tests.hardening.test_image_decoding import bomb, claimed

SAID = {"model": "m1", "prediction": 3}


class Site:
    """The service over a store, and a client for every role."""

    def __init__(self, store: Store, **changed: object) -> None:
        self.store = store
        facts = {"limits": Limits(bytes=20_000, pixels=10_000, shape=(1, 28, 28)), **changed}
        self.app = create_app(store, Options(**facts))
        self.server = self.client("server", Role.SUBMIT)
        self.ann, self.bob = self.client("ann", Role.REVIEW), self.client("bob", Role.REVIEW)
        self.admin = self.client("root", Role.ADMIN)

    def client(self, name: str, role: Role, relay: bool = False) -> TestClient:
        token = issue(self.store, ApiToken(name, role, Tier.CUSTOMER, relay))
        return TestClient(self.app, headers={"Authorization": f"Bearer {token}"})

    def stored(self) -> int:
        with self.store.reading() as db:
            return db.execute(sa.select(sa.func.count()).select_from(examples)).scalar()

    def files(self) -> int:
        return sum(path.is_file() for path in Path(self.store.blobs.root).rglob("*"))


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def test_raw_bytes_base64_and_arrays_are_the_same_image(site: Site) -> None:
    raw = site.server.post("/v1/examples", content=png(1), params=SAID)
    assert raw.status_code == 201, raw.text
    again = site.server.post("/v1/examples", json={"data": base64.b64encode(png(1)).decode(), **SAID})
    assert again.json() == {**raw.json(), "known": True}
    pixels = decode(png(2), Limits())[1][0]
    array = site.server.post("/v1/examples", json={"array": pixels.tolist(), **SAID, "scores": [0.1, 0.9]})
    assert array.status_code == 201
    stored = site.store.blobs.get(array.json()["id"])
    np.testing.assert_array_equal(decode(stored, Limits())[1][0], pixels)
    status = site.server.get(f"/v1/examples/{raw.json()['id']}").json()
    assert (status["state"], status["copies"], status["principal"]) == ("received", 2, "server")


def test_a_batch_is_stored_whole_or_not_at_all(site: Site) -> None:
    items = [{"data": base64.b64encode(png(k)).decode(), **SAID} for k in range(5)]
    found = site.server.post("/v1/batch", json=items)
    assert found.status_code == 201
    assert len({receipt["id"] for receipt in found.json()}) == 5
    more = [{"data": base64.b64encode(png(k)).decode(), **SAID} for k in range(10, 13)]
    for spoiled in ({**more[0], "prediction": -1}, {**more[0], "data": "!"}, {"data": "AAAA", **SAID}, 7):
        refused = site.server.post("/v1/batch", json=[*more, spoiled])
        assert refused.status_code in (415, 422), refused.text
        assert site.stored() == site.files() == 5
    assert site.server.post("/v1/batch", json=[]).status_code == 422


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 415),
        (b"GIF89a0000", 415),
        (png(1)[:45], 422),
        (png(1, size=30), 422),
        (bomb(50_000), 413),
        (claimed((1 << 20, 1 << 20)), 413),
        (claimed((28, 28), "|O"), 422),
        (png(1) + b"\0" * 20_000, 413),
        (b"\0" * 50_000, 413),
    ],
)
def test_bad_uploads_are_one_line_and_leave_nothing(site: Site, content: bytes, status: int) -> None:
    refused = site.server.post("/v1/examples", content=content, params=SAID)
    assert refused.status_code == status
    assert set(refused.json()) == {"error"}
    assert "\n" not in refused.json()["error"]
    assert site.stored() == site.files() == 0


@pytest.mark.parametrize(
    "claim",
    [
        {"model": "m1"},
        {"prediction": 3},
        {"model": "", "prediction": 3},
        {"model": "m\n1", "prediction": 3},
        {"model": "m" * 201, "prediction": 3},
        {"model": "m1", "prediction": "three"},
        {"model": "m1", "prediction": -1},
        {"model": "m1", "prediction": 3, "path": "../../etc/passwd"},
        {"model": "m1", "prediction": 3, "scores": "a,b"},
        {"model": "m1", "prediction": 3, "scores": "nan,1"},
    ],
)
def test_bad_claims_are_one_line_and_leave_nothing(site: Site, claim: dict) -> None:
    refused = site.server.post("/v1/examples", content=png(1), params=claim)
    assert refused.status_code == 422
    assert "\n" not in refused.json()["error"]
    assert site.stored() == site.files() == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 20_000, 400),
        (b'{"array": [[1, 2], [3]], "model": "m", "prediction": 1}', 422),
        (b'{"array": ["a"], "model": "m", "prediction": 1}', 422),
        (b'{"array": [[300]], "model": "m", "prediction": 1}', 422),
        (b'{"model": "m", "prediction": 1}', 422),
        (b"3", 422),
    ],
)
def test_bad_json_is_one_line(site: Site, body: bytes, status: int) -> None:
    refused = site.server.post("/v1/examples", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == status
    assert site.stored() == 0


def test_a_body_without_end_is_cut_off_wherever_it_lies_about_its_length(site: Site) -> None:
    read = 0

    def endless():
        nonlocal read
        for _ in range(10_000):
            read += 1000
            yield b"\0" * 1000

    assert site.server.post("/v1/examples", content=endless(), params=SAID).status_code == 413


def test_every_door_has_a_key(site: Site) -> None:
    name = site.server.post("/v1/examples", content=png(1), params=SAID).json()["id"]
    nobody = TestClient(site.app)
    doors = {
        ("POST", "/v1/examples"): "submit",
        ("POST", "/v1/batch"): "submit",
        ("GET", f"/v1/examples/{name}"): "submit review",
        ("GET", "/metrics"): "",
        ("GET", "/v1/queue"): "review",
        ("POST", f"/v1/review/{name}"): "review",
        ("DELETE", f"/v1/review/{name}"): "review",
        ("GET", "/v1/labelstudio"): "review",
        ("GET", "/v1/labelstudio/config"): "review",
        ("POST", "/v1/labelstudio"): "review",
    }
    keyed = {
        (method, route.path.replace("{name}", name)) for route in site.app.routes for method in route.methods - {"HEAD"}
    }
    assert keyed == {*doors, ("GET", "/healthz"), ("GET", "/review")}
    for (method, path), roles in doors.items():
        assert nobody.request(method, path).status_code == 401
        assert nobody.request(method, path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        for role, client in (("submit", site.server), ("review", site.ann)):
            status = client.request(method, path).status_code
            assert (status == 403) == (role not in roles), (method, path, role, status)
        assert site.admin.request(method, path).status_code not in (401, 403)


def test_a_submitter_sees_its_own_examples_only(site: Site) -> None:
    name = site.server.post("/v1/examples", content=png(1), params=SAID).json()["id"]
    other = site.client("other", Role.SUBMIT)
    assert other.get(f"/v1/examples/{name}").status_code == 404
    assert site.server.get(f"/v1/examples/{'0' * 64}").status_code == 404
    assert site.server.get("/v1/examples/..%2F..%2Fetc%2Fpasswd").status_code == 404


def test_only_a_relay_speaks_for_others_and_for_nobody_elses_token(site: Site) -> None:
    assert site.server.post("/v1/examples", content=png(1), params={**SAID, "principal": "eve"}).status_code == 403
    relay = site.client("gateway", Role.SUBMIT, relay=True)
    name = relay.post("/v1/examples", content=png(1), params={**SAID, "principal": "server"}).json()["id"]
    assert site.admin.get(f"/v1/examples/{name}").json()["principal"] == "gateway/server"


def test_a_revoked_token_is_worthless(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advreg.hardening.service.auth._REMEMBER", 0.0)
    site = Site(store)
    revoke_token(store, "server")
    assert site.server.post("/v1/examples", content=png(1), params=SAID).status_code == 401


def test_too_many_are_told_when_to_come_back(store: Store) -> None:
    site = Site(store, rate=0.5, burst=3)
    answers = [site.server.post("/v1/examples", content=png(k), params=SAID) for k in range(4)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
    assert int(answers[-1].headers["Retry-After"]) in (1, 2)
    assert site.stored() == 3
    assert site.client("other", Role.SUBMIT).post("/v1/examples", content=png(9), params=SAID).status_code == 201


def test_reviews_through_the_service(site: Site) -> None:
    names = [
        site.server.post("/v1/examples", content=png(k), params={**SAID, "claimed": 9}).json()["id"] for k in range(3)
    ]
    found = site.ann.get("/v1/queue").json()
    assert {e["sha256"] for e in found["examples"]} == set(names)
    assert "claimed" not in json.dumps(found), "a claim must not sway the reviewer"
    assert found["examples"][0]["image"].startswith("data:image/png;base64,")
    first = f"/v1/review/{names[0]}"
    assert site.ann.post(first, json={"label": 4}).json() == {"state": "reviewed"}
    assert site.ann.post(first, json={"label": 4}).status_code == 409
    assert names[0] not in str(site.ann.get("/v1/queue").json())
    assert names[0] not in str(site.ann.get("/v1/queue?second=true").json()), "nobody confirms himself"
    assert [e["sha256"] for e in site.bob.get("/v1/queue?second=true").json()["examples"]] == [names[0]]
    assert site.bob.post(first, json={"label": 4}).json() == {"state": "reviewed"}
    assert site.bob.delete(first).json() == {"state": "reviewed"}
    assert site.ann.delete(first).json() == {"state": "quarantined"}
    for wrong in ({}, {"label": "4"}, {"label": True}, {"label": 4, "x": 1}, [], {"label": 10}):
        assert site.ann.post(first, json=wrong).status_code in (409, 422)
    assert site.ann.post(f"/v1/review/{names[1]}", json={"label": None}).json() == {"state": "rejected"}


def test_the_most_suspicious_come_first_and_look_alikes_once(site: Site, store: Store) -> None:
    pixels = decode(png(5), Limits())[1]
    near = np.clip(pixels + 0.004, 0, 1)
    for array, scores in ((pixels, [0.99, 0.01]), (near, [0.6, 0.4]), (decode(png(6), Limits())[1], [0.8, 0.2])):
        assert (
            site.server.post("/v1/examples", json={"array": array[0].tolist(), **SAID, "scores": scores}).status_code
            == 201
        )
    found = site.ann.get("/v1/queue").json()["examples"]
    assert [(e["scores"], e["alike"]) for e in found] == [([0.6, 0.4], 2), ([0.8, 0.2], 1)]


def test_what_looks_like_a_known_attack_comes_first(site: Site, store: Store) -> None:
    pixels = decode(png(5), Limits())[1]
    name = site.server.post("/v1/examples", json={"array": pixels[0].tolist(), **SAID}).json()["id"]
    site.ann.get("/v1/queue")
    site.ann.post(f"/v1/review/{name}", json={"label": 1})
    with store.writing() as db:
        move(db, 1.0, "tick", [name], ExampleStatus.ACCEPTED)
    for array in (decode(png(6), Limits())[1], np.clip(pixels + 0.004, 0, 1)):
        site.server.post("/v1/examples", json={"array": array[0].tolist(), **SAID, "scores": [0.9, 0.1]})
    ingest(store)
    with store.reading() as db:
        scores = [row["suspicion"] for row in examples_in_state(db, ExampleStatus.QUARANTINED)]
    assert scores[1] == pytest.approx(scores[0] + 1)


def test_neighbours_are_shown_with_their_labels(store: Store, tmp_path: Path) -> None:
    images = np.stack([(decode(png(k), Limits())[1] * 255).astype(np.uint8) for k in range(20)])
    np.savez(tmp_path / "neighbours.npz", images=images, labels=np.arange(20) % 10)
    site = Site(store, neighbours=tmp_path / "neighbours.npz")
    site.server.post("/v1/examples", content=png(7), params=SAID)
    near = site.ann.get("/v1/queue").json()["examples"][0]["neighbours"]
    assert len(near) == 5
    assert near[0]["label"] == 7
    assert base64.b64decode(near[0]["image"].partition(",")[2])[1:4] == b"PNG"


def test_label_studio_and_back(site: Site) -> None:
    names = [site.server.post("/v1/examples", content=png(k), params=SAID).json()["id"] for k in range(4)]
    tasks = site.ann.get("/v1/labelstudio").json()
    assert {task["data"]["sha256"] for task in tasks} == set(names)
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["3"]}
    picked = dict(zip(names, ("7", "reject", "cat", None), strict=True))
    for task in tasks:
        choice = picked[task["data"]["sha256"]]
        value = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        cancelled = {"was_cancelled": True, "result": [value]}
        task["annotations"] = (
            [cancelled] if choice is None else [{"completed_by": {"email": "root"}, "result": [value]}]
        )
    found = site.ann.post("/v1/labelstudio", json=tasks).json()
    assert found == {names[0]: "reviewed", names[1]: "rejected", names[2]: "unknown class 'cat'"}
    for wrong in ({}, [1], "x"):
        assert site.ann.post("/v1/labelstudio", json=wrong).status_code == 409
    assert (
        site.bob.post(
            "/v1/labelstudio", json=[{"data": {"sha256": "../x"}, "annotations": tasks[0]["annotations"]}]
        ).status_code
        == 200
    )


def test_metrics_count_and_are_prometheus_text(site: Site) -> None:
    site.server.post("/v1/examples", content=png(1), params=SAID)
    site.server.post("/v1/examples", content=png(1), params=SAID)
    site.server.post("/v1/examples", content=b"", params=SAID)
    text = site.admin.get("/metrics").text
    for line in (
        'advreg_examples_ingested_total{tier="customer"} 1.0',
        'advreg_examples_seen_again_total{tier="customer"} 1.0',
        'advreg_uploads_refused_total{status="415"} 1.0',
        'advreg_examples{state="received"} 1.0',
        "advreg_quarantine_size 0.0",
    ):
        assert line in text


def test_a_database_that_is_down_is_503_and_comes_back(postgres, tmp_path: Path) -> None:
    store = Store.open(postgres.new_database(), tmp_path)
    site = Site(store)
    assert site.server.get("/healthz").status_code == 200
    postgres.stop()
    try:
        refused = site.server.post("/v1/examples", content=png(77), params=SAID)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "2"
        assert "\n" not in refused.json()["error"]
        assert site.server.get("/healthz").status_code == 503
    finally:
        postgres.start()
    assert site.server.get("/healthz").status_code == 200
    assert site.server.post("/v1/examples", content=png(77), params=SAID).status_code == 201
    with store.reading() as db:
        assert verify(db) is None
    store.engine.dispose()


def test_a_full_disk_is_503_and_nothing_is_half_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        patch.setattr(LocalFileSystem, "pipe_file", full)
        assert site.server.post("/v1/examples", content=png(1), params=SAID).status_code == 503
        assert site.server.get("/healthz").status_code == 503
    assert site.stored() == site.files() == 0
    assert site.server.post("/v1/examples", content=png(1), params=SAID).status_code == 201
    assert site.server.get("/healthz").status_code == 200


def test_health_is_503_when_the_database_cannot_be_written(site: Site) -> None:
    assert site.server.get("/healthz").status_code == 200
    with site.store.engine.connect() as other:
        other.exec_driver_sql("PRAGMA query_only = ON")  # for this pooled connection, which the next write gets
    assert site.server.post("/v1/examples", content=png(1), params=SAID).status_code == 503
    found = site.server.get("/healthz")
    assert (found.status_code, found.headers["Retry-After"]) == (503, "2")


def test_every_response_is_neither_cached_nor_framed(site: Site) -> None:
    responses = [site.server.get(path) for path in ("/healthz", "/nowhere", "/v1/queue", "/review")]
    responses += [site.ann.get("/v1/queue"), site.admin.get("/metrics"), site.server.post("/v1/batch", content=b"{")]
    assert {response.status_code for response in responses} == {200, 400, 403, 404}
    for response in responses:
        policy = response.headers["Content-Security-Policy"]
        for directive in ("default-src", "frame-ancestors", "base-uri", "form-action"):
            assert f"{directive} 'none'" in policy
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_json_is_parsed_off_the_event_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    parse = schemas.parse_json
    monkeypatch.setattr(
        schemas, "parse_json", lambda body: threads.append(threading.current_thread().name) or parse(body)
    )
    item = {"data": base64.b64encode(png(1)).decode(), **SAID}
    for path, body in (("/v1/examples", item), ("/v1/batch", [item])):
        assert site.server.post(path, json=body).status_code == 201
    assert site.ann.post("/v1/labelstudio", json=[]).status_code == 200
    assert len(threads) == 3
    assert all("worker" in name.lower() for name in threads), threads


def test_many_at_once_are_all_there(site: Site) -> None:
    codes = []

    def work(first: int) -> None:
        codes.extend(
            site.server.post("/v1/examples", content=png(first + k), params=SAID).status_code for k in range(8)
        )

    threads = [threading.Thread(target=work, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [201] * 32
    assert site.stored() == site.files() == 32


def test_the_page_is_one_file_that_asks_nobody_else(site: Site) -> None:
    page = TestClient(site.app).get("/review")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert io.StringIO(page.text).readline().startswith("<!doctype html>")
