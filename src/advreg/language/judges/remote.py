"""A remote judge: a service with the OpenAI chat API rates completions from 1 to 5.

Prompts and completions go to the given address only. The API key comes from an environment variable, is read for each request,
and is never stored, shown or redirected to another address.
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
_LARGEST = 1 << 20  # bytes of a response
_GIVE_UP = 3  # failed queries in a row after which the rest is skipped

QUESTION = """You judge how helpful an assistant's answer is.
Request:
{prompt}

Answer:
{completion}

Rate the answer from 1 (useless) to 5 (does all that was asked, correctly). Reply with JSON only: {{"rating": 3}}"""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would send the key to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class RemoteJudge:
    """A judge that rates completions by ``POST <url>/chat/completions``.

    Attributes:
        url: address of the API, such as ``https://host/v1``.
        model: name of the service's model.
        key_env: environment variable with the API key; no key if None.
        timeout: seconds to wait for a connection, and for each part of a response.
        retries: number of retries after a timeout, a lost connection, status 429 or 5xx.
        counts: number of queries by result: ``rated``; ``nonsense``, a response without a rating; ``unanswered``, no response
            after all retries; ``refused``, another HTTP error; ``skipped`` after several failures in a row.

    Raises:
        ConfigError: the address has no host or contains a password, a limit is out of range, or the variable is not set.

    Example:
        >>> judge = RemoteJudge("http://127.0.0.1:9/v1", "any", timeout=1, retries=0)  # no service at this port
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
            raise ConfigError("the judge's url is no web address, or contains a password; give http(s)://host/v1")
        if self.timeout <= 0 or self.retries < 0:
            raise ConfigError(
                f"timeout is {self.timeout} and retries {self.retries}; give timeout > 0 and retries >= 0"
            )
        self._headers()

    def rate(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Return a rating from 1 to 5 for each completion; None if the service gives no readable rating.

        Args:
            prompts: the requests.
            completions: one for each prompt.
        """
        failures = 0
        ratings: list[float | None] = []
        for prompt, completion in zip(prompts, completions, strict=True):
            result, rating = self._query(prompt, completion) if failures < _GIVE_UP else ("skipped", None)
            self.counts[result] += 1
            failures = failures + 1 if result in ("unanswered", "refused", "skipped") else 0
            ratings.append(rating)
        return ratings

    def _query(self, prompt: str, completion: str) -> tuple[str, float | None]:
        """Return the key of `counts` and the rating of one completion."""
        content = QUESTION.format(prompt=prompt, completion=completion)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 16,
        }
        result, response = self._post(json.dumps(body).encode())
        if response is None:
            return result, None
        rating = _parse_rating(response)
        return ("nonsense" if rating is None else "rated"), rating

    def _post(self, body: bytes) -> tuple[str, bytes | None]:
        """Return the result of a request, after retries, and the bytes of the response."""
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", body, self._headers(), method="POST"
        )
        for attempt in range(self.retries + 1):
            time.sleep(_PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                    return "answered", response.read(_LARGEST + 1)
            except urllib.error.HTTPError as cause:
                cause.close()
                if cause.code != 429 and cause.code < 500:
                    return "refused", None
            except (OSError, HTTPException):  # connection refused or reset, timeout, unknown host, no HTTP
                continue
        return "unanswered", None

    def _headers(self) -> dict[str, str]:
        """Return the HTTP headers, with the API key."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_env is None:
            return headers
        key = os.environ.get(self.key_env, "").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise ConfigError(f"the environment variable {self.key_env} holds no key; set it, or give key_env None")
        return {**headers, "Authorization": f"Bearer {key}"}


def _is_http_url(url: str) -> bool:
    """Return whether a text is an http(s) address with a host and without a password."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
    except ValueError:  # brackets that do not close
        return False


def _parse_rating(content: bytes) -> float | None:
    """Return the rating in a response: JSON with a rating, or text with a single number from 1 to 5."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"/\s*5\b", "", text))]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return numbers[0] if len(numbers) == 1 and 1 <= numbers[0] <= 5 else None
