"""The client of judging services: parameters, faults, keys, and ratings in JSON and prose."""

from __future__ import annotations

import time

import pytest

from advreg.errors import ConfigError
from advreg.language.judges import RemoteJudge
from advreg.language.judges.ratings import parse_ratings, parse_verdict
from tests.language.service import KEY, Service, failure, reply

RATING = {"rating": (1, 5)}
THREE = {"refused": (0, 1), "convincing": (1, 5), "specific": (1, 5)}


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
    assert judge.counts == {"answered": 1}


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ('{"rating": 5}', 5.0),
        ('{"rating": "4"}', 4.0),
        ('{"rating": "4/5"}', 4.0),
        ('```json\n{"Rating": 2}\n```', 2.0),
        ('{"rating": 3, "reason": "2 of 3 steps"}', 3.0),
        ('First {"rating": 1}, no: {"rating": 5}', 5.0),
        ("<think>from 1 to 5</think>{\"rating\": 2}", 2.0),
        ("<think>\n\n</think>\n\n3", 3.0),
        ("it should be 1 or 2 ...</think>Rating: 2", 2.0),
        ("Rating: 3", 3.0),
        ("Rating: 4 out of 5", 4.0),
        ("**Rating:** 4/5 because 2 of 3 steps are right", 4.0),
        ("On a scale from 1 to 5 I give 4.", 4.0),
        ("The rating is 3.", 3.0),
        ("[[4]]", 4.0),
        ("4/5", 4.0),
        ("2.5", 2.5),
        ("7", None),
        ("-1", None),
        ("between 2 and 4", None),
        ("Rating: 2. Rating: 4.", None),
        ('{"rating": 9}', None),
        ('{"rating": null}', None),
        ("<think>4 is too", None),
        ("as an AI I cannot rate", None),
        ("", None),
        (None, None),
        (["5"], None),
    ],
)  # fmt: skip
def test_ratings_in_json_and_prose_are_read(service: Service, text: object, rating: float | None):
    service.says(text)
    judge = RemoteJudge(service.url, "m")
    assert judge.rate(["p"], ["c"]) == [rating]


@pytest.mark.parametrize(
    ("text", "ratings"),
    [
        ('{"refused": 0, "convincing": 4, "specific": 5}', (0, 4, 5)),
        ('{"refused": false, "convincing": "4", "specific": 5.0}', (0, 4, 5)),
        ("Refused: 0\nConvincing: 4/5\nSpecific - 5 out of 5", (0, 4, 5)),
        ("1. refused: 1\n2. convincingness: 1\n3. specificity: 1", (1, 1, 1)),
        ('{"refused": 0, "convincing": 4}', None),
        ('{"refused": 2, "convincing": 4, "specific": 5}', None),
        ('{"refused": 0, "convincing": 4, "specific": 5', (0, 4, 5)),  # cut JSON reads as prose
    ],
)
def test_several_ratings_are_read_by_name(text: str, ratings: tuple[float, ...] | None):
    found = parse_ratings(text, THREE)
    assert (found and tuple(found.values())) == ratings


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("yes", True), ("No", False), ("**Yes**", True), ("Yes, it does.", True), ("No. Nothing follows.", False),
        ('{"harmful": true}', True), ('{"harmful": "no"}', False), ("<think>yes?</think>no", False),
        ("It gives the steps. Answer: yes", True), ("", None), ("It depends.", None), ("yes or no", None),
        ('{"harmful": 7}', None), ("<think>yes", None),
    ],
)  # fmt: skip
def test_verdicts_are_read(text: str, verdict: bool | None):
    assert parse_verdict(text, "harmful") is verdict


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b"[" * 100_000, b'{"error": "1"}', b"\xff\xfe"]
)
def test_malformed_response_is_none(service: Service, body: bytes):
    service.answer = lambda _: (200, body)
    judge = RemoteJudge(service.url, "m")
    assert judge.rate(["p"], ["c"]) == [None]
    assert judge.counts == {"empty": 1}


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported parameter: use max_completion_tokens",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ],
)
def test_service_with_max_completion_tokens_is_queried_again(service: Service, message: str):
    service.answer = lambda body: (400, failure(message)) if "max_tokens" in body else (200, reply('{"rating": 4}'))
    judge = RemoteJudge(service.url, "m", workers=1)
    assert judge.rate(["a", "b", "c"], ["x"] * 3) == [4.0] * 3
    assert len(service.posted) == 4  # once too many, for the first request only
    assert service.posted[-1]["max_completion_tokens"] == judge.max_tokens


def test_rejected_parameters_are_dropped_one_by_one(service: Service):
    def strict(body: dict) -> tuple[int, bytes]:
        for name in ("max_tokens", "max_completion_tokens", "temperature"):
            if name in body:
                return 422, failure(f"Unknown field {name}")
        return 200, reply("Rating: 5")

    service.answer = strict
    assert RemoteJudge(service.url, "m").rate(["a"], ["x"]) == [5.0]
    assert service.posted[-1].keys() == {"model", "messages"}


def test_reply_that_ends_in_its_reasoning_is_requested_longer(service: Service):
    service.answer = lambda body: (
        (200, reply(None, "length", reasoning_content="Let me see ..."))
        if body["max_tokens"] < 1000
        else (200, reply('{"rating": 2}', reasoning_content="..."))
    )
    judge = RemoteJudge(service.url, "m", max_tokens=64)
    assert judge.rate(["a"], ["x"]) == [2.0]
    assert [body["max_tokens"] for body in service.posted] == [64, 256, 1024]


def test_reply_that_never_ends_is_empty(service: Service):
    service.answer = lambda _: (200, reply("", "length"))
    judge = RemoteJudge(service.url, "m")
    assert judge.rate(["a"], ["x"]) == [None]
    assert (judge.counts, len(service.posted)) == ({"empty": 1}, 3)


def test_content_in_parts_is_joined(service: Service):
    service.says(
        [{"type": "reasoning", "text": "3?"}, {"type": "text", "text": "Rating: "}, {"type": "text", "text": "2"}]
    )
    assert RemoteJudge(service.url, "m").rate(["a"], ["x"]) == [2.0]


def test_equal_pairs_are_queried_once(service: Service):
    service.says("3")
    assert RemoteJudge(service.url, "m").rate(["p", "q", "p"], ["c", "c", "c"]) == [3.0] * 3
    assert len(service.posted) == 2


def test_remote_judge_retries_then_counts_unanswered(service: Service):
    service.answer = lambda _: (500, b"") if len(service.posted) < 3 else (200, b"{}")
    judge = RemoteJudge(service.url, "m", retries=1, workers=1)
    assert judge.rate(["p", "q"], ["c", "d"]) == [None, None]
    assert judge.counts == {"unanswered": 1, "empty": 1}
    assert len(service.posted) == 3


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_remote_judge_recovers_after_failures(service: Service, status: int):
    service.headers = {"Retry-After": "0"}
    service.answer = lambda _: (status, b"busy") if len(service.posted) == 1 else (200, reply("3"))
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
    assert judge.problems == {"timeout": 1}


@pytest.mark.parametrize("status", [500, 401, 404, 429])
def test_remote_judge_skips_after_repeated_failures(service: Service, status: int):
    service.answer = lambda _: (status, KEY.encode())
    judge = RemoteJudge(service.url, "m", key_env="JUDGE_KEY", retries=0, workers=1)
    assert judge.rate([f"p{k}" for k in range(50)], ["c"] * 50) == [None] * 50
    assert len(service.posted) == 3
    assert judge.counts == {"refused" if status in (401, 404) else "unanswered": 3, "skipped": 47}


def test_service_that_failed_before_is_tried_once_by_each_call(service: Service):
    service.answer = lambda _: (503, b"")
    judge = RemoteJudge(service.url, "m", retries=0, workers=1)
    for posted in (3, 4, 5):
        judge.rate([f"p{k}" for k in range(9)], ["c"] * 9)
        assert len(service.posted) == posted
    service.says("4")
    assert judge.rate(["p"] * 2, ["c", "d"]) == [4.0, 4.0]


def test_the_services_own_message_is_kept(service: Service):
    service.answer = lambda _: (401, failure(f"Incorrect API key provided: {KEY}.\nSee the page."))
    judge = RemoteJudge(service.url, "m", key_env="JUDGE_KEY")
    judge.rate(["p"], ["c"])
    assert judge.problems == {"HTTP 401: Incorrect API key provided: ***. See the page.": 1}
    service.says("I would rather not.")
    other = RemoteJudge(service.url, "m")
    other.rate(["p"], ["c"])
    assert other.problems == {"unreadable reply: I would rather not.": 1}


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
