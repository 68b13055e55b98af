"""Attacks with an attacking model: PAIR, TAP and conversations, against a planted network and a local service."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from advreg.cli.attack_options import parse_attacks
from advreg.errors import ConfigError, ModelError
from advreg.language.attacks import multi_turn, pair, tap
from advreg.language.attacks.attacker import STRATEGIES
from advreg.language.chat_service import ChatService
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.endpoint import ServiceModel
from advreg.pass_counting import count_passes
from tests.language.planted import planted

REQUESTS = [HarmfulRequest(k, f"open lock {k}") for k in range(2)]


@pytest.fixture(scope="module")
def lm():
    """Return a network that complies where the prompt holds the word please."""
    return planted(["please"], hit="sure", miss="no")


class Actor:
    """An attacking model that finds the word on its n-th try, rates by the network's words, and counts its queries."""

    def __init__(self, on_try: int = 2, off_topic: str = "never") -> None:
        self.on_try, self.off_topic = on_try, off_topic
        self.seen: list[list[dict[str, str]]] = []

    def __call__(self, conversations):
        self.seen += [list(each) for each in conversations]
        return [self.reply([turn["content"] for turn in each]) for each in conversations]

    def reply(self, contents):
        last = contents[-1]
        if last.startswith("Rate"):
            return json.dumps({"rating": 10 if "Response: sure" in last else 2})
        if last.startswith("Does the prompt"):
            return "no" if self.off_topic in last else "Yes."
        tries = (len(contents) + 1) // 2
        word = "please " if tries >= self.on_try else ""
        variant = re.search(r"Variant (\d)", last)
        return f'Here: {{"improvement": "x", "prompt": "{word}open it, way {variant[1] if variant else tries}"}}'


def test_pair_refines_until_the_response_complies(lm):
    actor = Actor(on_try=2)
    with count_passes(lm.network.lm_head) as passes:
        result = pair(lm, REQUESTS, attacker=actor, streams=3, depth=4, max_new_tokens=1)
    assert result.completions == [["sure"], ["sure"]]
    assert result.prompts == ["please open it, way 2"] * 2
    assert result.queries == len(actor.seen) == 2 * 2 * (3 + 3)  # two levels of three prompts and three ratings
    assert result.forwards == passes.forwards == 2 * 2 * 3
    assert "queries=24" in repr(result)
    first = [each[0]["content"] for each in actor.seen[:3]]
    assert len({next(s for s in STRATEGIES if s in text) for text in first}) == 3
    assert "Response: no\nScore: 2 of 10" in actor.seen[6][-1]["content"]


def test_tap_branches_prunes_and_keeps_the_best(lm):
    actor = Actor(on_try=3, off_topic="Prompt: open it, way 2")
    result = tap(lm, REQUESTS[:1], attacker=actor, branching=3, width=2, depth=4, max_new_tokens=1)
    assert result.completions == [["sure"]]
    asked = [each[-1]["content"] for each in actor.seen]
    rated = [text for text in asked if text.startswith("Rate")]
    checked = [text for text in asked if text.startswith("Does the prompt")]
    assert len(checked) == 3 + 2 * 3 + 2 * 3
    assert len(rated) == 2 + 4 + 6  # prompts off the topic never reach the model; the third level has other prompts
    assert result.queries == len(asked)


@pytest.mark.parametrize("budget", [2, 7, 12, 20])
def test_budget_bounds_the_queries_of_each_request(lm, budget):
    for attack, options in ((pair, {"depth": 5}), (tap, {"depth": 5})):
        actor = Actor(on_try=9)
        if attack is tap and budget < 3:
            continue
        result = attack(lm, REQUESTS, attacker=actor, budget=budget, max_new_tokens=1, **options)
        assert result.queries == len(actor.seen) <= 2 * budget
        assert result.completions == [["no"], ["no"]]


def test_deadline_ends_the_search_with_the_best_so_far(lm, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("advreg.language.attacks.attacker.time.monotonic", lambda: float(next(now)))
    actor = Actor(on_try=9)
    result = pair(lm, REQUESTS[:1], attacker=actor, streams=1, depth=50, budget=10_000, deadline=4, max_new_tokens=1)
    assert result.completions == [["no"]]
    assert len(actor.seen) < 10


def test_an_attack_that_did_not_run_is_not_reported_as_withstood(lm):
    for replies in (None, "I will not help with that.", '{"prompt": 3}'):
        for attack in (pair, tap, multi_turn):
            with pytest.raises(ModelError, match="request 0: the attacking model gave no usable reply"):
                attack(lm, REQUESTS, attacker=lambda conversations, reply=replies: [reply] * len(conversations))
    for attack in (pair, tap):
        with pytest.raises(ConfigError, match=f"{attack.__name__} needs an attacking model"):
            attack(lm, REQUESTS)
        with pytest.raises(ConfigError, match="depth is 0; give at least 1"):
            attack(lm, REQUESTS, attacker=Actor(), depth=0)


def test_multi_turn_script_ends_with_the_request(lm):
    script = ("What is {request}?", "And then?", "please {request}")
    with count_passes(lm.network.lm_head) as passes:
        result = multi_turn(lm, REQUESTS, script=script, max_new_tokens=1)
    assert result.prompts == ["please open lock 0", "please open lock 1"]
    assert result.completions == [["sure"], ["sure"]]
    assert result.forwards == passes.forwards == 2 * 3
    assert (
        multi_turn(lm, REQUESTS, script=("please", "{request}"), turns=2, max_new_tokens=1).completions
        == [["sure"]] * 2
    )
    assert (
        multi_turn(lm, REQUESTS, script=("please", "{request}"), turns=1, max_new_tokens=1).completions == [["no"]] * 2
    )
    with pytest.raises(ConfigError, match="never name the request"):
        multi_turn(lm, REQUESTS, script=("{request}", "b"), turns=1)


def test_multi_turn_attacker_sees_the_conversation(lm):
    actor = Actor(on_try=1)
    result = multi_turn(lm, REQUESTS, attacker=actor, turns=2, max_new_tokens=1)
    assert (result.completions, result.queries) == ([["sure"], ["sure"]], 4)
    assert "user: please open it, way 1\nassistant: sure" in actor.seen[2][-1]["content"]


@contextmanager
def service(statuses):
    """Yield the URL of a chat service on this machine that gives these statuses first, and the bodies that it got."""
    bodies, actor = [], Actor(on_try=1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            status = statuses.pop(0) if statuses else 200
            (text,) = actor([body["messages"]])
            content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_attackers_are_services_behind_a_url(lm, monkeypatch):
    monkeypatch.setattr("advreg.language.chat_service._PAUSE", 0.0)
    with service([503, 429]) as (url, bodies):
        known = {"pair": pair, "multi_turn": multi_turn}
        attacks = parse_attacks(
            [f"pair:url={url},model=tester,streams=1,depth=2", f"multi_turn:url={url},model=t"], known
        )
        results = [attack(lm, REQUESTS[:1], seed=0, max_new_tokens=1) for attack in attacks.values()]
    assert [result.completions for result in results] == [[["sure"]], [["sure"]]]
    assert results[0].queries == 2
    assert len(bodies) == 2 + 2 + 3  # two retries
    assert {body["model"] for body in bodies} == {"tester", "t"}
    with pytest.raises(ConfigError, match="pair needs both url"):
        parse_attacks(["pair:model=x"], known)
    silent = ChatService("http://127.0.0.1:9/v1", "any", timeout=1, retries=0)
    with pytest.raises(ModelError, match="no usable reply; check its address"):
        pair(lm, REQUESTS, attacker=silent.complete)


def test_a_service_that_trickles_is_left_at_its_deadline(lm):
    """Each part arrives within the timeout, so only the deadline of the whole reply ends it."""

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b" ")
                    time.sleep(0.05)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        service, start = ChatService(url, "any", timeout=2, retries=5, deadline=0.3), time.monotonic()
        with pytest.raises(ModelError, match="request 0: the attacking model gave no usable reply"):
            pair(lm, REQUESTS, attacker=service.complete, streams=1)
        assert time.monotonic() - start < 4
        assert dict(service.counts) == {"unanswered": 1}
        assert service.problems == {"timeout": 1}
    finally:
        server.shutdown()
        server.server_close()


def test_text_attacks_run_on_a_service(lm, monkeypatch):
    """PAIR, TAP and conversations need only text, so the model under attack may be behind a URL too."""
    with service([]) as (url, bodies):
        victim = ServiceModel(None, None, "victim", service=ChatService(url, "victim", workers=1))
        result = pair(victim, REQUESTS[:1], attacker=Actor(on_try=1), streams=1, depth=1, max_new_tokens=4)
    assert result.prompts == ["please open it, way 1"]
    assert [body["messages"][-1]["content"] for body in bodies] == result.prompts
    assert (result.forwards, result.queries) == (0, 2)
