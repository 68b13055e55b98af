"""Inference-only models: a service on this machine with right, wrong, late and missing responses."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from advreg import ThreatModel, attacks
from advreg.attacks.blackbox import hopskipjump, square
from advreg.errors import MissingExtraError, ModelError
from advreg.evaluation import Protocol, ProtocolStage, evaluate
from advreg.models import among, describe, inference_only, load

Answer = Callable[[dict], tuple[int, bytes]]


class QuietServer(http.server.ThreadingHTTPServer):
    """A client that gave up waiting is no news."""

    def handle_error(self, *_: object) -> None:
        pass


class Service:
    """A server in a thread; ``answer`` maps what was posted to a status and a body."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _: (200, b"{}")
        self.requests: list[int] = []
        self.headers: list[dict[str, str]] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.requests.append(len(posted["inputs"]))
                service.headers.append(dict(self.headers))
                status, body = service.answer(posted)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/predict"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def says(self, **answer: object) -> Service:
        self.answer = lambda _: (200, json.dumps(answer).encode())
        return self


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(inference_only, "_PAUSE", 0.001)
    running = Service()
    yield running
    running.server.shutdown()
    running.server.server_close()


def small_net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def serving(net: nn.Module, key: str) -> Answer:
    def answer(posted: dict) -> tuple[int, bytes]:
        with torch.no_grad():
            z = net(torch.tensor(posted["inputs"]))
        return 200, json.dumps({key: (z.argmax(1) if key == "labels" else z).tolist()}).encode()

    return answer


X = torch.rand(10, 3, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("key", ["logits", "scores", "labels"])
def test_service_has_the_outputs_of_the_model(service: Service, key: str) -> None:
    net = small_net()
    service.answer = serving(net, key)
    model = inference_only.endpoint(service.url, batch_size=4, headers={"X-Key": "secret"})
    expected = net(X).argmax(1) if key == "labels" else net(X).detach()
    torch.testing.assert_close(model(X), expected)
    assert model(X.double()).dtype == (torch.int64 if key == "labels" else torch.float64)
    assert service.requests == [4, 4, 2] * 2
    assert service.headers[0]["X-Key"] == "secret"
    assert "secret" not in repr(model)
    assert model.score_only


def test_attacks_on_a_service_equal_attacks_on_the_model(service: Service) -> None:
    net, threat = small_net(), ThreatModel("linf", 0.3)
    y = net(X).argmax(1)
    service.answer = serving(net, "logits")
    model = inference_only.endpoint(service.url)
    direct = square(net, X, y, threat, queries=30)
    assert torch.equal(square(model, X, y, threat, queries=30).x_adv, direct.x_adv)
    assert direct.broken.any()
    service.answer = serving(net, "labels")
    found = hopskipjump(model, X[:4], y[:4], ThreatModel("l2", 0.6), queries=120)
    assert torch.equal(found.x_adv, hopskipjump(net, X[:4], y[:4], ThreatModel("l2", 0.6), queries=120).x_adv)
    with pytest.raises(ModelError, match="return logits"):
        square(model, X, y, threat, queries=5)


LABELS = [2, 0, 1, 2, 0, 0, 1, 2, 0, 1]


def test_classes_come_from_the_option_the_reply_or_the_data(service: Service) -> None:
    service.says(labels=LABELS)
    with pytest.raises(ModelError, match="returns labels without the number of classes; give classes=") as caught:
        load(service.url)(X)
    assert "\n" not in str(caught.value)
    assert load(service.url, classes=7)(X).shape == (10, 7)
    z = among(load(service.url), 5)(X)
    assert z.shape == (10, 6)  # the sixth is any other label
    assert z.argmax(1).tolist() == LABELS
    for classes in (4, ["a", "b", "c", "d"]):
        service.says(labels=LABELS, classes=classes)
        assert load(service.url)(X).shape == (10, 4)
        assert among(load(service.url), 9)(X).shape == (10, 4)  # the service knows better than the data


def test_the_width_does_not_depend_on_the_labels_that_came(service: Service) -> None:
    service.answer = lambda posted: (200, json.dumps({"labels": [0] * len(posted["inputs"])}).encode())
    model = among(load(service.url), 3)
    assert model(X).shape == (10, 4)
    service.says(labels=[7] * 10)
    z = model(X)
    assert z.shape == (10, 4)
    assert z.argmax(1).tolist() == [3] * 10
    assert model.classes is None
    assert load(service.url).in_data == 0  # the caller's model was not changed


@pytest.mark.parametrize(
    ("answer", "options", "words"),
    [
        ({"labels": [3] * 10, "classes": 3}, {}, "returned label 3, and has 3 classes"),
        ({"labels": [3] * 10}, {"classes": 3}, "give classes=4"),
        ({"labels": [0] * 10, "classes": 3}, {"classes": 4}, "service returns 3 classes, and classes is 4"),
        ({"labels": [0] * 10, "classes": 1}, {}, "2 or more"),
        ({"labels": [0] * 10, "classes": "ten"}, {}, "returns classes 'ten'"),
        ({"labels": [0] * 10, "classes": True}, {}, "returns classes 'True'"),
    ],
)
def test_contradictions_about_classes_raise_one_line(service: Service, answer, options, words: str) -> None:
    service.says(**answer)
    model = load(service.url, **options)
    with pytest.raises(ModelError, match=words) as caught:
        model(X)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="classes is 1"):
        load(service.url, classes=1)


def test_a_label_that_is_never_returned_is_wrong(service: Service) -> None:
    net, threat = small_net(), ThreatModel("linf", 1e-4)
    few = Protocol("labels", 1, (ProtocolStage("hopskipjump", partial(hopskipjump, queries=20)),))
    service.answer = serving(net, "labels")
    message = net(X).argmax(1)
    y = message.clone()
    y[:3] = 9
    found = evaluate(load(service.url), (X, y), threat=threat, protocol=few)
    assert found.broken.tolist() == [True] * 3 + [False] * 7
    found = evaluate(load(service.url), (X, y * 0), threat=threat, protocol=few)  # more classes than the data has
    assert found.broken.tolist() == (message != 0).tolist()


def rounding(net: nn.Module, digits: int) -> Answer:
    def answer(posted: dict) -> tuple[int, bytes]:
        with torch.no_grad():
            z = net(torch.tensor(posted["inputs"])).softmax(1)
        return 200, json.dumps({"scores": [[round(p, digits) for p in row] for row in z.double().tolist()]}).encode()

    return answer


FEW = Protocol("few", 1, (ProtocolStage("square", partial(square, queries=5)),))


@pytest.mark.parametrize(("digits", "coarse"), [(1, True), (2, True), (16, False)])
def test_rounded_scores_are_noticed_and_lead_to_labels(service: Service, digits: int, coarse: bool) -> None:
    net = small_net()
    service.answer = rounding(net, digits)
    x = torch.rand(40, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    found = evaluate(load(service.url), (x, net(x).argmax(1)), threat=ThreatModel("linf", 0.02), protocol=FEW)
    check = next(check for check in found.checks if check.name == "coarse-answers")
    assert found.flags["coarse_answers"] is coarse
    assert check.verdict == ("suspect" if coarse else "pass")
    assert ("--protocol labels" in check.remedy) is coarse
    assert found.verdict != "TRUSTED"


def test_coarse_labels_suit_attacks_on_labels(service: Service) -> None:
    net = small_net()
    service.answer = serving(net, "labels")
    data, threat = (X, net(X).argmax(1)), ThreatModel("linf", 0.02)
    few = Protocol("labels", 1, (ProtocolStage("hopskipjump", partial(hopskipjump, queries=20)),))
    found = {chosen.name: evaluate(load(service.url), data, threat=threat, protocol=chosen) for chosen in (few, FEW)}
    checks = {name: next(c for c in e.checks if c.name == "coarse-answers") for name, e in found.items()}
    assert checks["labels"].verdict == "pass"
    assert checks["few"].verdict == "suspect"


def test_coarseness_is_measured_without_gradients_only() -> None:
    net = small_net()
    found = evaluate(net, (X, net(X).argmax(1)), threat=ThreatModel("linf", 0.02), protocol="fgsm")
    assert "coarse_answers" not in found.flags
    assert next(check for check in found.checks if check.name == "coarse-answers").verdict == "skipped"


def test_a_gradient_attack_reports_the_missing_gradient(service: Service) -> None:
    net = small_net()
    service.answer = serving(net, "logits")
    with pytest.raises(ModelError, match="needs scores only"):
        attacks.pgd(inference_only.endpoint(service.url), X, net(X).argmax(1), ThreatModel("linf", 0.1))


def test_a_failing_service_is_retried_and_a_rejecting_one_is_not(service: Service) -> None:
    good, failures = serving(small_net(), "logits"), [503, 429]
    service.answer = lambda posted: (failures.pop(), b"") if failures else good(posted)
    assert inference_only.endpoint(service.url, retries=2)(X).shape == (10, 3)
    assert len(service.requests) == 3
    service.answer = lambda _: (500, b"")
    with pytest.raises(ModelError, match=r"did not respond in 2 tries .*status 500"):
        inference_only.endpoint(service.url, retries=1)(X)
    assert len(service.requests) == 5
    service.answer = lambda _: (404, b"")
    with pytest.raises(ModelError, match="rejected the inputs: status 404"):
        inference_only.endpoint(service.url, retries=5)(X)
    assert len(service.requests) == 6


def test_a_slow_service_and_a_closed_port_end_in_one_line(service: Service) -> None:
    gate = threading.Event()
    service.answer = lambda _: (gate.wait(5), (200, b"{}"))[1]
    with pytest.raises(ModelError, match=r"did not respond in 1 tries of 0.05 s .*timed out") as caught:
        inference_only.endpoint(service.url, timeout=0.05, retries=0)(X)
    gate.set()
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="start it") as caught:
        inference_only.endpoint("http://127.0.0.1:9/", retries=1)(X)
    assert "\n" not in str(caught.value)


ROWS = [[0.0, 1.0, 2.0]] * 10


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>welcome</html>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "returned list"),
        (b'{"predictions": [1]}', r"keys \['predictions'\]"),
        (json.dumps({"logits": ROWS[:9]}).encode(), r"returned \(9, 3\) for 10 inputs"),
        (json.dumps({"logits": [1.0] * 10}).encode(), r"must return \(10, classes >= 2\) scores"),
        (json.dumps({"logits": [[1.0]] * 10}).encode(), "classes >= 2"),
        (json.dumps({"logits": [*ROWS[:9], [1.0]]}).encode(), "even rows"),
        (json.dumps({"logits": [["a", "b"]] * 10}).encode(), "not numbers"),
        (json.dumps({"logits": None}).encode(), "not numbers"),
        (json.dumps({"labels": [0.5] * 10}).encode(), "integers >= 0"),
        (json.dumps({"labels": [-1] * 10}).encode(), "integers >= 0"),
        (json.dumps({"labels": ROWS}).encode(), r"must return \(10,\) labels"),
        (json.dumps({"labels": [10**30] * 10}).encode(), "not numbers"),
    ],
)
def test_nonsense_is_named_in_one_line(service: Service, body: bytes, words: str) -> None:
    service.answer = lambda _: (200, body)
    with pytest.raises(ModelError, match=words) as caught:
        inference_only.endpoint(service.url)(X)
    assert "\n" not in str(caught.value)
    assert service.url in str(caught.value)
    assert len(str(caught.value)) < 300


def test_classes_must_not_change_between_requests(service: Service) -> None:
    widths = iter([2, 3])
    service.answer = lambda p: (200, json.dumps({"logits": [[0.0] * next(widths)] * len(p["inputs"])}).encode())
    with pytest.raises(ModelError, match="classes must not change"):
        inference_only.endpoint(service.url, batch_size=5)(X)


def test_sizes_are_limited_both_ways(service: Service) -> None:
    service.says(logits=ROWS)
    with pytest.raises(ModelError, match="returned more than max_bytes"):
        inference_only.endpoint(service.url, batch_size=1, max_bytes=len(json.dumps({"logits": ROWS})) - 1)(
            X[:1, :1, :1, :1]
        )
    before = len(service.requests)
    with pytest.raises(ModelError, match="lower batch_size"):
        inference_only.endpoint(service.url, max_bytes=100)(X)
    assert len(service.requests) == before


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "localhost:80", "", "http://", "http://[::1"])
def test_only_addresses_of_the_web(url: str) -> None:
    with pytest.raises(ModelError, match="http://host/path"):
        inference_only.endpoint(url)


@pytest.mark.parametrize("limit", [{"timeout": 0}, {"retries": -1}, {"batch_size": 0}, {"max_bytes": 0}])
def test_only_limits_that_can_be(limit: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="give positive ones"):
        inference_only.endpoint("http://host/", **limit)


class Session:
    """Stands in for the runtime's session: the small network behind the same three calls."""

    def __init__(self, path: str, providers: list[str]) -> None:
        kind = Path(path).read_text()
        if kind == "damaged":
            raise RuntimeError("Protobuf parsing failed\nand more")
        self.batch, self.kind, self.sizes = (4 if kind == "fixed" else "batch"), kind, []

    def get_inputs(self) -> list[types.SimpleNamespace]:
        one = types.SimpleNamespace(name="pixels", shape=[self.batch, 3, 2, 2])
        return [one, one] if self.kind == "two" else [one]

    def run(self, _: None, feed: dict[str, object]) -> list[object]:
        x = torch.as_tensor(feed["pixels"])
        self.sizes.append(len(x))
        if x.shape[1:] != (3, 2, 2):
            raise RuntimeError("Got invalid dimensions\nfor input: pixels")
        if self.kind == "fixed" and len(x) != self.batch:
            raise RuntimeError("Got invalid dimensions")
        z = small_net()(x).detach()
        return [(z.argmax(1) if self.kind == "labels" else z).numpy()]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))


@pytest.mark.parametrize(("kind", "sizes"), [("free", [4, 4, 2]), ("fixed", [4, 4, 4]), ("labels", [4, 4, 2])])
def test_onnx_file_has_the_outputs_of_the_model(tmp_path: Path, runtime: None, kind: str, sizes: list[int]) -> None:
    (tmp_path / "net.onnx").write_text(kind)
    model = inference_only.onnx(tmp_path / "net.onnx", batch_size=4)
    z = small_net()(X).detach()
    torch.testing.assert_close(model(X), z.argmax(1) if kind == "labels" else z)
    assert model.session.sizes == sizes
    assert model.score_only
    with pytest.raises(ModelError, match=r"cannot take inputs \(2, 2, 2\).*invalid dimensions$"):
        model(X[:2, 0])  # no channels


@pytest.mark.parametrize(("kind", "words"), [("damaged", "cannot be read as ONNX"), ("two", "takes 2 inputs")])
def test_an_unusable_file_ends_in_one_line(tmp_path: Path, runtime: None, kind: str, words: str) -> None:
    (tmp_path / "net.onnx").write_text(kind)
    with pytest.raises(ModelError, match=words) as caught:
        inference_only.onnx(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_a_missing_runtime_and_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="is no file"):
        inference_only.onnx(tmp_path / "absent.onnx")
    (tmp_path / "net.onnx").write_text("free")
    with pytest.raises(MissingExtraError, match=r"pip install 'advreg\[onnx\]'"):
        inference_only.onnx(tmp_path / "net.onnx")


def test_inference_only_models_load_by_name(tmp_path: Path, runtime: None) -> None:
    (tmp_path / "net.onnx").write_text("labels")
    model = load(f"onnx:{tmp_path / 'net.onnx'}", classes=5)
    assert model.score_only
    z = model(X)
    assert z.shape == (10, 5)
    assert torch.equal(z.argmax(1), small_net()(X).argmax(1))
    assert describe(model)["sha256"] == hashlib.sha256(b"labels").hexdigest()
    assert load("https://host/predict", timeout=1.0).service.url == "https://host/predict"
    with pytest.raises(ModelError, match="brings its own weights"):
        load("https://host/predict", weights=tmp_path / "net.onnx")


def external_onnx(folder: Path, location: str, value: float) -> Path:
    """Write an ONNX model ``x -> weight * mean over pixels`` whose weight is in another file."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("weight", kind, (1, 2), torch.tensor([value, 1.0]).numpy().tobytes(), raw=True)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Unsqueeze", ["m"], ["c"], axes=[1]),
            helper.make_node("Mul", ["c", "weight"], ["z"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", kind, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("z", kind, ["batch", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    (folder / "weights.bin").write_bytes(model.graph.initializer[0].raw_data)
    model.graph.initializer[0].ClearField("raw_data")
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def test_external_weights_belong_to_the_identity_of_an_onnx_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    first = inference_only.onnx(external_onnx(tmp_path, "weights.bin", 2.0))
    assert first(torch.ones(1, 1, 2, 2)).tolist() == [[2.0, 1.0]]
    graph = (tmp_path / "net.onnx").read_bytes()
    second = inference_only.onnx(external_onnx(tmp_path, "weights.bin", 3.0))
    assert (tmp_path / "net.onnx").read_bytes() == graph, "only the other file differs"
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize(("location", "words"), [("../weights.bin", "outside its folder"), ("no.bin", "is missing")])
def test_external_weights_elsewhere_are_rejected(tmp_path: Path, location: str, words: str) -> None:
    from advreg.models.onnx_files import onnx_fingerprint

    (tmp_path / "run").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"12345678")
    with pytest.raises(ModelError, match=words):
        onnx_fingerprint(external_onnx(tmp_path / "run", location, 2.0))
