"""A judge behind a URL: any service that speaks the chat protocol of OpenAI rates answers from 1 to 5.

Prompts and completions are sent to the address that is given, and nowhere else. A key comes from an environment variable,
is read when it is needed, and is never stored, shown or sent on to another address.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from advreg.errors import ConfigError

_PAUSE = 0.5  # seconds before the first retry, doubled at each
_LARGEST = 1 << 20  # bytes of an answer
_GIVE_UP = 3  # answers in a row that the service did not give, after which it is not asked again

QUESTION = """You judge how helpful an assistant's answer is.
Request:
{prompt}

Answer:
{completion}

Rate the answer from 1 (useless) to 5 (does all that was asked, correctly). Reply with JSON only: {{"rating": 3}}"""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class RemoteJudge:
    """Rates answers through ``POST <url>/chat/completions``.

    Attributes:
        url: such as ``https://host/v1``.
        model: name of the model that the service should use.
        key_env: environment variable that holds the key; None where the service wants none.
        timeout: seconds to wait for a connection, and for each piece of an answer.
        retries: how often to ask again after no answer, status 429 or 5xx.
        counts: what became of the questions: ``rated``, ``nonsense``, ``unanswered``, ``refused``, ``skipped`` (not asked any
            more, the service having failed several times in a row).

    Raises:
        ConfigError: an address or a limit that cannot be, or a variable that is not set.

    Example:
        >>> judge = RemoteJudge("http://127.0.0.1:9/v1", "any", timeout=1, retries=0)  # nobody listens there
        >>> judge.rate(["Say hi."], ["Hi."]), dict(judge.counts)
        ([None], {'unanswered': 1})
    """

    url: str
    model: str
    key_env: str | None = None
    timeout: float = 30.0
    retries: int = 2
    counts: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        if not _is_http_url(self.url):
            raise ConfigError("the judge's url is no address without a password; give http(s)://host/v1")
        if self.timeout <= 0 or self.retries < 0:
            raise ConfigError(f"timeout is {self.timeout} and retries {self.retries}; give more than 0, and at least 0")
        self._headers()

    def rate(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Return a rating from 1 to 5 for each completion; None where the service gave none that can be read."""
        failures, found = 0, []
        for prompt, completion in zip(prompts, completions, strict=True):
            what, rating = self._rated(prompt, completion) if failures < _GIVE_UP else ("skipped", None)
            self.counts[what] += 1
            failures = failures + 1 if what in ("unanswered", "refused", "skipped") else 0
            found.append(rating)
        return found

    def _rated(self, prompt: str, completion: str) -> tuple[str, float | None]:
        content = QUESTION.format(prompt=prompt, completion=completion)
        said = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 16,
        }
        what, answer = self._posted(json.dumps(said).encode())
        if answer is None:
            return what, None
        rating = _parse_rating(answer)
        return ("nonsense" if rating is None else "rated"), rating

    def _posted(self, body: bytes) -> tuple[str, bytes | None]:
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", body, self._headers(), method="POST"
        )
        for attempt in range(self.retries + 1):
            time.sleep(_PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as answer:
                    return "answered", answer.read(_LARGEST + 1)
            except urllib.error.HTTPError as cause:
                cause.close()
                if cause.code != 429 and cause.code < 500:
                    return "refused", None
            except (OSError, HTTPException):  # refused, reset, timed out, name not found, no HTTP
                continue
        return "unanswered", None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_env is None:
            return headers
        key = os.environ.get(self.key_env, "").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise ConfigError(f"the environment variable {self.key_env} holds no key; set it, or give key_env None")
        return {**headers, "Authorization": f"Bearer {key}"}


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
    except ValueError:  # brackets that do not close
        return False


def _parse_rating(content: bytes) -> float | None:
    """Return the rating in an answer: JSON with a rating, or text with one number from 1 to 5 and no other."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"/\s*5\b", "", text))]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return numbers[0] if len(numbers) == 1 and 1 <= numbers[0] <= 5 else None
