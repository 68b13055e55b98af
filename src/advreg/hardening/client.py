"""The client: sends examples from a model server to the service in the background, without blocking or raising.

It imports the standard library alone; errors are counted, not raised.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import queue
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

_BATCH = 64
_PASSING = (429, 502, 503, 504)  # a later try may succeed
_LARGEST = 4 << 20  # of one example; the service rejects more


class Client:
    """Send examples in the background: a bounded queue, one thread, no exceptions.

    ``counts`` holds the results of `record`: ``sent`` (acknowledged by the service), ``dropped`` (the queue was full),
    ``skipped`` (by sampling), ``refused`` (rejected by the service, or unusable), ``failed`` (no response in all tries, or a
    failure of the service). A batch that makes the service fail is sent again example by example.

    Args:
        url: address of ``advreg harden serve``, such as ``http://127.0.0.1:8471``.
        token: a token with the role submit.
        model: version of the deployed model.
        sample: share of the calls that is recorded.
        capacity: largest number of waiting examples.
        tries: number of times a batch is sent before it counts as failed.
        timeout: seconds to wait for a response.
        wait: seconds before the second try; doubled before each further one.

    Example:
        >>> client = Client("http://127.0.0.1:9", token="t", model="m1", tries=1)  # a closed port
        >>> client.record(b"bytes of a PNG", prediction=3)
        True
        >>> client.close()
        >>> client.counts["failed"]
        1
    """

    def __init__(
        self,
        url: str,
        token: str,
        model: str,
        *,
        sample: float = 1.0,
        capacity: int = 1000,
        tries: int = 4,
        timeout: float = 5.0,
        wait: float = 0.2,
    ) -> None:
        self.address, self.token, self.model = urlsplit(url), token, model
        self.sample, self.tries, self.timeout, self.wait = sample, max(tries, 1), timeout, wait
        self.counts: Counter[str] = Counter()
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(max(capacity, 1))
        self._capacity = max(capacity, 1)
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._connection: http.client.HTTPConnection | None = None

    def record(
        self,
        example: Any,
        prediction: int | str | None,
        *,
        scores: Sequence[float] | None = None,
        principal: str | None = None,
        claimed: int | None = None,
        model: str | None = None,
    ) -> bool:
        """Return whether an example was queued, at once: it is left out if there is no room.

        Args:
            example: bytes of a PNG, JPEG or .npy file, an array or CPU tensor (uint8, or floats in [0, 1]), or a text.
            prediction: the deployed model's class; for a text, the model's output, or None.
            scores: the model's probabilities; they order the review.
            principal: the user it is submitted for; needs a relay token.
            claimed: the submitter's label.
            model: a version other than the client's.

        Returns:
            True if it was queued.
        """
        try:
            if self.sample < 1 and random.random() >= self.sample:
                return self._counted("skipped")
            if self._waiting.full() or self._closing.is_set():
                return self._counted("dropped")
            content = _content(example)
            if len(content) > _LARGEST:
                return self._counted("refused")
            facts: dict[str, Any] = {
                "model": model or self.model,
                "prediction": _prediction(example, prediction),
                "principal": principal,
                "claimed": claimed,
            }
            facts["scores"] = None if scores is None else [float(score) for score in scores]
            self._start()
            self._waiting.put_nowait({"content": content, **{k: v for k, v in facts.items() if v is not None}})
            return True
        except queue.Full:
            return self._counted("dropped")
        except Exception:  # an error must not reach the model server
            return self._counted("refused")

    def flush(self, seconds: float = 10.0) -> bool:
        """Return whether the queue is empty, after waiting for it.

        Args:
            seconds: longest wait.

        Returns:
            False if the wait was too short.
        """
        until = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)
        return not self._waiting.unfinished_tasks

    def close(self, seconds: float = 10.0) -> None:
        """Send the queued examples and stop.

        Args:
            seconds: longest wait.
        """
        self.flush(seconds)
        self._closing.set()
        if self._thread is not None and self._process == os.getpid():
            self._thread.join(seconds)

    def _counted(self, what: str, number: int = 1) -> bool:
        with self._turn:
            self.counts[what] += number
        return False

    def _start(self) -> None:
        """Start the thread at the first example, and again in a forked process."""
        if self._thread is not None and self._process == os.getpid():
            return
        with self._turn:
            if self._thread is None or self._process != os.getpid():
                if self._process not in (0, os.getpid()):
                    self._waiting, self._connection = (
                        queue.Queue(self._capacity),
                        None,
                    )  # the parent sends its own queue
                self._process = os.getpid()
                self._thread = threading.Thread(target=self._work, name="advreg-client", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                batch = [self._waiting.get(timeout=0.1)]
            except queue.Empty:
                continue
            size = len(batch[0]["content"])
            while len(batch) < _BATCH and size < _LARGEST and not self._waiting.empty():
                batch.append(self._waiting.get())
                size += len(batch[-1]["content"])
            try:
                self._deliver(batch)
            except Exception:  # a bug here must not end the thread
                self._counted("failed", len(batch))
            for _ in batch:
                self._waiting.task_done()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _deliver(self, batch: list[dict[str, Any]], tries: int | None = None) -> None:
        """Send a batch; if it is rejected or the service fails, send its examples singly, so that one affects no other."""
        status = self._send(batch, tries or self.tries)
        if status == 201:
            self._counted("sent", len(batch))
        elif len(batch) > 1 and status not in (
            None,
            401,
            403,
        ):  # without a response or with a bad token, each would fail
            for item in batch:
                self._deliver([item], tries=1)
        else:
            failed = status is None or status >= 500 or status == 429
            self._counted("failed" if failed else "refused", len(batch))

    def _send(self, batch: list[dict[str, Any]], tries: int) -> int | None:
        """Return the status of the last response; None if there was none."""
        body = json.dumps([_encoded(item) for item in batch])
        status = None
        for attempt in range(tries):
            if attempt and self._closing.wait(self.wait * 2 ** (attempt - 1)):
                return status
            try:
                status = self._post(body)
            except (OSError, http.client.HTTPException):
                self._disconnect()
                continue
            if status not in _PASSING:
                return status
        return status

    def _post(self, body: str) -> int:
        if self._connection is None:
            secure = self.address.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            self._connection = kind(self.address.hostname or "", self.address.port, timeout=self.timeout)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        self._connection.request("POST", f"{self.address.path.rstrip('/')}/v1/batch", body, headers)
        response = self._connection.getresponse()
        response.read()
        return response.status


def _prediction(example: Any, prediction: Any) -> int | str | None:
    if not isinstance(example, str):
        return int(prediction)
    if not isinstance(prediction, str | None):
        raise TypeError("the prediction for a text is the model's output")
    return prediction


def _content(example: Any) -> bytes | str:
    if isinstance(example, str):
        example.encode()  # raises here for lone surrogates, not in the thread
        return example
    return bytes(example) if isinstance(example, bytes | bytearray | memoryview) else _npy(example)


def _encoded(item: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in item.items() if key != "content"}
    if isinstance(item["content"], str):
        return {"text": item["content"], **rest}
    return {"data": base64.b64encode(item["content"]).decode(), **rest}


def _npy(array: Any) -> bytes:
    """Return an array or a CPU tensor as the bytes of a .npy file; duck typing avoids importing numpy and torch."""
    if hasattr(array, "detach"):
        array = array.detach().numpy()
    descr = array.dtype.str
    if descr not in ("|u1", "<f2", "<f4", "<f8"):
        raise TypeError(f"dtype {descr}")
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(int(n) for n in array.shape)}, }}"
    padding = -(10 + len(header) + 1) % 64
    text = (header + " " * padding + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(array.tobytes())
