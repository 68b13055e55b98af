"""A client of services with the OpenAI chat API: OpenAI, vLLM, llama.cpp, Ollama and others.

Messages go to the given address only. The API key comes from an environment variable, is read for each request, and is never
stored, shown or redirected to another address.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from advreg.errors import ConfigError

_PAUSE = 0.5  # seconds before the first retry, doubled at each
_LONGEST_PAUSE = 60.0
_LARGEST = 1 << 20  # bytes of a response
_GIVE_UP = 3  # failed requests in a row after which the rest is skipped
_SHOWN = 200  # characters of a service's message
_LIMITS = ("max_tokens", "max_completion_tokens")
_MOST_TOKENS = 16384

Message = Mapping[str, str]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would send the key to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class ChatService:
    """A model behind ``POST <url>/chat/completions``.

    A service that rejects a parameter is queried again without it, and with ``max_completion_tokens`` in place of
    ``max_tokens``. A reply that ends inside its reasoning is requested again with four times the length.

    Attributes:
        url: address of the API, such as ``https://host/v1`` or ``http://127.0.0.1:8000/v1``.
        model: name of the service's model.
        key_env: environment variable with the API key; no key if None.
        timeout: seconds to wait for a connection, and for each part of a response.
        deadline: seconds for a reply with all its parts and retries.
        retries: number of retries after a timeout, a lost connection, status 408, 429 or 5xx.
        max_tokens: length limit of a reply in tokens, its reasoning included.
        temperature: sampling temperature.
        workers: number of simultaneous requests.
        counts: number of requests by result: ``answered``; ``empty``, a response without text; ``unanswered``, no response
            after all retries; ``refused``, another HTTP error; ``skipped`` after several failures in a row.
        problems: messages of the service, with the number of requests that got each.

    Raises:
        ConfigError: the address has no host or contains a password, a limit is out of range, or the variable is not set.

    Example:
        >>> service = ChatService("http://127.0.0.1:9/v1", "any", timeout=1, retries=0)  # no service at this port
        >>> service.complete([[{"role": "user", "content": "Say hi."}]]), dict(service.counts)
        ([None], {'unanswered': 1})
    """

    url: str
    model: str
    key_env: str | None = None
    timeout: float = 60.0
    retries: int = 2
    max_tokens: int = 1024
    temperature: float = 0.0
    workers: int = 4
    deadline: float = 600.0
    counts: Counter[str] = field(default_factory=Counter, compare=False)
    problems: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    _parameters: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    _failures: list[int] = field(default_factory=lambda: [0], init=False, compare=False, repr=False)  # in a row
    _lock: Any = field(default_factory=threading.Lock, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_http_url(self.url):
            raise ConfigError("the service's url is no web address, or contains a password; give http(s)://host/v1")
        if min(self.timeout, self.deadline) <= 0 or self.retries < 0 or self.max_tokens < 1 or self.workers < 1:
            limits = f"timeout is {self.timeout}, retries {self.retries}, max_tokens {self.max_tokens}, workers {self.workers}"
            raise ConfigError(f"{limits}; give timeout and deadline > 0, retries >= 0, max_tokens and workers >= 1")
        self._headers()
        self._parameters.update(max_tokens=self.max_tokens, temperature=self.temperature)

    def complete(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """Return the reply to each conversation; None where there is none.

        Args:
            conversations: messages with ``role`` and ``content``, one list for each reply.
        """
        # A service that failed before is tried once more by each call, not three times.
        self._failures[:] = [min(self._failures[0], _GIVE_UP - 1)]

        def reply(messages: Sequence[Message]) -> str | None:
            result, text = self._query(messages) if self._failures[0] < _GIVE_UP else ("skipped", None)
            with self._lock:
                self.counts[result] += 1
                self._failures[0] = self._failures[0] + 1 if result in ("unanswered", "refused", "skipped") else 0
            return text

        if self.workers == 1 or len(conversations) < 2:
            return [reply(messages) for messages in conversations]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(reply, conversations))

    def _query(self, messages: Sequence[Message]) -> tuple[str, str | None]:
        """Return the key of `counts` and the text of one reply."""
        while True:
            sent = dict(self._parameters)
            body = json.dumps({"model": self.model, "messages": list(messages), **sent}).encode()
            status, content = self._post(body)
            if status is None:
                return "unanswered", None
            if status >= 400:
                if self._adapt(sent, content):
                    continue
                self.note(f"HTTP {status}: {_service_message(content)}")
                return "refused", None
            text, is_cut = _parse_reply(content)
            if text is None and is_cut and self._lengthen(sent):
                continue
            return ("empty" if text is None else "answered"), text

    def _post(self, body: bytes) -> tuple[int | None, bytes]:
        """Return status and content of a response after retries; the status is None without a response."""
        url = f"{self.url.rstrip('/')}/chat/completions"
        request, pause = urllib.request.Request(url, body, self._headers(), method="POST"), _PAUSE
        end = time.monotonic() + self.deadline
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(max(min(pause, _LONGEST_PAUSE, end - time.monotonic()), 0))
                pause *= 2
            if attempt and time.monotonic() >= end:
                break
            try:
                limit = min(self.timeout, self.deadline)
                with urllib.request.build_opener(_NoRedirect).open(request, timeout=limit) as response:
                    return int(response.status), _read_before(response, end)
            except urllib.error.HTTPError as cause:
                with cause:
                    content = _read_quietly(cause)
                if cause.code not in (408, 429) and cause.code < 500:
                    return max(cause.code, 400), content
                self.note(f"HTTP {cause.code}: {_service_message(content)}")
                pause = max(pause, _retry_after(cause.headers.get("Retry-After")))
            except (OSError, HTTPException) as cause:  # refused or reset connection, timeout, unknown host, no HTTP
                self.note(type(cause).__name__ if not isinstance(cause, TimeoutError) else "timeout")
        return None, b""

    def _adapt(self, sent: Mapping[str, Any], content: bytes) -> bool:
        """Change or drop the parameter that the service rejects; return whether there is one to change."""
        message = _service_message(content)
        limit = next((name for name in _LIMITS if name in sent), None)
        names_limit = limit is not None and any(name in message for name in _LIMITS)
        rejected = (
            limit if names_limit else "temperature" if "temperature" in sent and "temperature" in message else None
        )
        if rejected is None:
            return False
        with self._lock:
            if self._parameters.keys() == sent.keys():  # otherwise another request has adapted them
                value = self._parameters.pop(rejected)
                self._parameters.update({_LIMITS[1]: value} if rejected == _LIMITS[0] else {})
        return True

    def _lengthen(self, sent: Mapping[str, Any]) -> bool:
        """Raise the length limit after a reply without text; return whether it can be raised."""
        name = next((name for name in _LIMITS if name in sent), None)
        if name is None or sent[name] >= _MOST_TOKENS:
            return False
        with self._lock:
            self._parameters[name] = max(self._parameters.get(name, 0), min(4 * sent[name], _MOST_TOKENS))
        return True

    def note(self, problem: str) -> None:
        """Count a problem with the service, with its key removed.

        Args:
            problem: a message in one line.
        """
        key = self._key()
        with self._lock:
            self.problems[problem.replace(key, "***") if key else problem] += 1

    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip() if self.key_env else ""

    def _headers(self) -> dict[str, str]:
        """Return the HTTP headers, with the API key."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_env is None:
            return headers
        key = self._key()
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


def _parse_reply(content: bytes) -> tuple[str | None, bool]:
    """Return the text of a response, and whether its length limit cut it short."""
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["message"]["content"]
        if isinstance(text, list):  # parts of a message
            text = "".join(part["text"] for part in text if part.get("type", "text") == "text")
        is_cut = choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None, False
    return (text if isinstance(text, str) and text.strip() else None), is_cut


def _service_message(content: bytes) -> str:
    """Return the message in an error response, in one line."""
    try:
        error = json.loads(content)
        for name in ("error", "detail", "message"):
            error = error.get(name, error) if isinstance(error, dict) else error
        text = error if isinstance(error, str) else json.dumps(error)
    except (ValueError, RecursionError):
        text = content.decode(errors="replace")
    return " ".join(text.split())[:_SHOWN]


def _read_before(response: Any, end: float) -> bytes:
    """Return the content of a response; raise `TimeoutError` if its parts still arrive after ``end``."""
    parts: list[bytes] = []
    while sum(map(len, parts)) <= _LARGEST and (part := response.read1(1 << 16)):
        parts.append(part)
        if time.monotonic() > end:
            raise TimeoutError
    return b"".join(parts)


def _read_quietly(response: Any) -> bytes:
    """Return the content of an error response; nothing if the connection breaks."""
    try:
        return bytes(response.read(_LARGEST))
    except (OSError, HTTPException):
        return b""


def _retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 for a date or none."""
    return float(value) if value and value.isdigit() else 0.0
