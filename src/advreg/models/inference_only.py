"""Models without gradients: an ONNX file, or a service behind a URL. Functions from inputs to scores or labels."""

from __future__ import annotations

import copy
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg._deprecation import renamed_attribute, renamed_options
from advreg.errors import ModelError
from advreg.models.onnx_files import onnx_fingerprint
from advreg.plugins import first_line, import_extra

_MIB = 2**20
_KEYS = ("logits", "scores", "labels")
_PAUSE = 0.2  # seconds before the first retry, doubled at each


class Reply(NamedTuple):
    """Outputs: scores ``(B, K)`` or labels ``(B,)``, and the number of classes if the service returns it."""

    values: Tensor
    classes: int | None = None


@dataclass(frozen=True)
class Endpoint:
    """A model behind a URL, made by `endpoint`: a function from inputs ``(B, ...)`` to scores ``(B, K)`` or labels ``(B,)``."""

    url: str
    timeout: float = 10.0
    retries: int = 2
    batch_size: int = 64
    max_bytes: int = 64 * _MIB
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # they may hold a key

    score_only: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the address, in place of that of weights, which are not visible."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def __call__(self, x: Tensor) -> Tensor:
        """Return scores or labels of inputs ``(B, ...)``, requested ``batch_size`` at a time.

        Raises:
            ModelError: no response, or one without scores or labels for these inputs.
        """
        return self.reply(x).values

    def reply(self, x: Tensor) -> Reply:
        """Return the outputs, with the number of classes if the service returns it."""
        return _join_replies([self._query(part) for part in torch.split(x.detach(), self.batch_size)], self.url)

    def _query(self, x: Tensor) -> Reply:
        body = json.dumps({"inputs": x.cpu().tolist()}).encode()
        if len(body) > self.max_bytes:
            raise ModelError(
                f"{self.url}: {len(x)} inputs make {len(body)} bytes, over max_bytes {self.max_bytes}; lower batch_size"
            )
        return _read(self._post(body), x, self.url)

    def _post(self, body: bytes) -> bytes:
        """Post, and retry after errors that may pass: no connection, a timeout, status 429 and 5xx."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self.headers}
        request = urllib.request.Request(self.url, body, headers, method="POST")
        reason = ""
        for attempt in range(self.retries + 1):
            time.sleep(_PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                return self._fetch(request)
            except urllib.error.HTTPError as cause:
                reason = f"status {cause.code} {cause.reason}"
                cause.close()
                if cause.code != 429 and cause.code < 500:
                    raise ModelError(
                        f"{self.url} rejected the inputs: {reason}; check the address and its input format"
                    ) from cause
            except (OSError, HTTPException) as cause:  # rejected, reset, timed out, name not found, no HTTP
                reason = first_line(cause)
        tries = f"{self.retries + 1} tries of {self.timeout:g} s"
        raise ModelError(f"{self.url} did not respond in {tries} ({reason}); start it, or raise timeout or retries")

    def _fetch(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            content: bytes = response.read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise ModelError(f"{self.url} returned more than max_bytes {self.max_bytes}; it must return scores only")
        return content


def endpoint(
    url: str,
    *,
    timeout: float = 10.0,
    retries: int = 2,
    batch_size: int = 64,
    max_bytes: int = 64 * _MIB,
    headers: Mapping[str, str] | None = None,
) -> Endpoint:
    """Return a model behind a URL as a function, for attacks that need scores or labels only.

    It posts ``{"inputs": [...]}``, nested lists of numbers shaped like the batch, and expects ``{"logits": [[...], ...]}`` or
    ``{"scores": [[...], ...]}``, one row for each input, or ``{"labels": [...]}``, one class number for each. Beside the labels
    it may return the number of classes, ``"classes": 10``, or their names.

    Args:
        url: ``http://`` or ``https://``.
        timeout: seconds to wait for a connection, and for each part of a response.
        retries: number of retries when the service does not respond, is overloaded or fails.
        batch_size: inputs in one request.
        max_bytes: largest size of a request and of a response.
        headers: more headers, such as ``{"Authorization": "Bearer ..."}``; never shown.

    Returns:
        A function from inputs ``(B, ...)`` to scores ``(B, K)`` or labels ``(B,)``, with ``score_only`` True.

    Raises:
        ModelError: an address or a limit that cannot be.

    Example:
        >>> endpoint("http://127.0.0.1:8000/predict", timeout=2).score_only
        True
    """
    if not _is_web(url):
        raise ModelError(f"url is {url!r}; give http://host/path or https://host/path")
    if timeout <= 0 or retries < 0 or batch_size < 1 or max_bytes < 1:
        limits = f"timeout {timeout}, retries {retries}, batch_size {batch_size}, max_bytes {max_bytes}"
        raise ModelError(f"limits are {limits}; give positive ones, retries at least 0")
    return Endpoint(url, timeout, retries, batch_size, max_bytes, dict(headers or {}))


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not close
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _read(content: bytes, x: Tensor, url: str) -> Reply:
    """Return the outputs in a response, or raise one line with its content."""
    wanted = f"it must return JSON with {', '.join(_KEYS)}: one entry for each of {len(x)} inputs"
    try:
        response = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise ModelError(f"{url} returned {content[:40]!r}, which is not JSON; {wanted}") from cause
    key = next((key for key in _KEYS if isinstance(response, dict) and key in response), None)
    if key is None:
        found = f"keys {sorted(response)[:5]}" if isinstance(response, dict) else type(response).__name__
        raise ModelError(f"{url} returned {found}; {wanted}")
    try:
        values = torch.tensor(response[key])
    except (ValueError, TypeError, RuntimeError, OverflowError) as cause:
        raise ModelError(f"{url}: its {key} are not numbers in even rows; {wanted}") from cause
    return Reply(_check_outputs(values, x, key == "labels", url), _class_count(response.get("classes"), url))


def _class_count(classes: object, url: str) -> int | None:
    """Return the number of classes in a response: a number, or the count of names."""
    count = len(classes) if isinstance(classes, list) else classes
    if count is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise ModelError(f"{url} returns classes {str(classes)[:40]!r}; give their number, 2 or more, or names")
    return count


def _check_outputs(values: Tensor, x: Tensor, labels: bool, name: str) -> Tensor:
    """Return scores in the type of the inputs, or labels as integers."""
    shape = tuple(values.shape)
    if len(shape) != (1 if labels else 2) or shape[0] != len(x) or (not labels and shape[1] < 2):
        allowed = f"({len(x)},) labels" if labels else f"({len(x)}, classes >= 2) scores"
        raise ModelError(f"{name} returned {shape} for {len(x)} inputs; it must return {allowed}")
    if not labels:
        return values.to(x)
    if values.is_floating_point() or values.dtype == torch.bool or int(values.min()) < 0:
        raise ModelError(
            f"{name} returned labels of {values.dtype} from {values.min().item()}; they must be integers >= 0"
        )
    return values.to(x.device, torch.int64)


def _join_replies(parts: list[Reply], name: str) -> Reply:
    shapes = {(*part.values.shape[1:], *([] if part.classes is None else [part.classes])) for part in parts}
    if len(shapes) > 1:
        raise ModelError(
            f"{name} returned rows of {sorted(shapes)} for inputs of one shape; the classes must not change"
        )
    return Reply(torch.cat([part.values for part in parts]), parts[0].classes)


@dataclass(frozen=True)
class Onnx:
    """A model in an ONNX file, made by `onnx`: a function from inputs ``(B, ...)`` to scores ``(B, K)`` or labels ``(B,)``.

    Attributes:
        fingerprint: SHA-256 of the file and of the files beside it that hold its weights.
    """

    path: Path
    batch_size: int
    fixed: bool
    session: Any = field(repr=False)
    fingerprint: str = ""

    score_only: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """Run the file on these inputs.

        Raises:
            ModelError: it cannot take them, or does not return scores or labels.
        """
        return self.reply(x).values

    def reply(self, x: Tensor) -> Reply:
        """Return the outputs; a file does not hold the number of classes."""
        return _join_replies([self._run(part) for part in torch.split(x.detach(), self.batch_size)], str(self.path))

    def _run(self, x: Tensor) -> Reply:
        name = self.session.get_inputs()[0].name
        missing = self.batch_size - len(x) if self.fixed else 0
        full = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
        try:
            output = self.session.run(None, {name: full.cpu().float().numpy()})[0]
        except Exception as cause:  # the runtime has errors of its own
            raise ModelError(f"{self.path} cannot take inputs {tuple(x.shape)}: {first_line(cause)}") from cause
        values = torch.as_tensor(output)[: len(x)]
        return Reply(_check_outputs(values, x, values.ndim == 1, str(self.path)))


def onnx(path: str | Path, *, batch_size: int = 256) -> Onnx:
    """Return the model of an ONNX file as a function, for attacks that need scores or labels only.

    Its input takes the batch, in float32; its first output is the scores ``(B, K)`` or the labels ``(B,)``. A file that was
    exported for batches of one size is run in pieces of that size, the last one filled up.

    Args:
        path: the file.
        batch_size: inputs in one run.

    Returns:
        A function from inputs ``(B, ...)`` to scores or labels, with ``score_only`` True.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: no such file, or one that cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file} is no file; give the path of an ONNX model")
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}; give at least 1")
    runtime = import_extra("onnxruntime", "advreg[onnx]")
    fingerprint = onnx_fingerprint(file)
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as cause:  # the runtime has errors of its own
        raise ModelError(f"{file} cannot be read as ONNX: {first_line(cause)}") from cause
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise ModelError(f"{file} takes {len(inputs)} inputs ({names}); it must take one, the batch of images")
    size = next(iter(inputs[0].shape), None)  # a name, or nothing, where any size will do
    if isinstance(size, int):
        return Onnx(file, size, True, session, fingerprint)
    return Onnx(file, batch_size, False, session, fingerprint)


Service = Endpoint | Onnx


class InferenceOnlyModel(nn.Module):
    """A function without gradients as a module that returns logits: a label becomes scores of 1 at the label and -1 elsewhere.

    The number of classes comes from ``classes``, from the service, or from the data (`among`), never from the labels so far:
    a label that has not occurred yet is a valid prediction.

    Attributes:
        service: the function that is queried.
        classes: number of classes; None where the service or the data give it.
        in_data: number of classes in the data, 0 without data.
        score_only: marks the model as one without gradients.

    Args:
        service: result of `onnx` or `endpoint`, or a function of your own that returns scores or labels.
        classes: number of classes, for models that return labels.
    """

    score_only = True
    answers = renamed_attribute("answers", "service")

    @renamed_options(answers="service")
    def __init__(self, service: Service, classes: int | None = None) -> None:
        super().__init__()
        if classes is not None and classes < 2:
            raise ModelError(f"classes is {classes}; give the number of classes, 2 or more")
        self.service, self.classes = service, classes
        self.in_data = 0
        self.eval()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the function, in place of that of weights."""
        return self.service.fingerprint

    def among(self, classes: int) -> InferenceOnlyModel:
        """Return the same model for data with this number of classes; any other label counts as one more class."""
        other = copy.copy(self)
        other.in_data = classes
        return other

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``(B, K)``.

        Raises:
            ModelError: labels with an unknown number of classes, or beyond that number.
        """
        values, n_classes = (
            self.service.reply(x) if isinstance(self.service, Endpoint | Onnx) else Reply(self.service(x))
        )
        if values.ndim == 2:
            return values
        return 2 * F.one_hot(*self._within(values, n_classes)).to(x.dtype) - 1

    def _within(self, labels: Tensor, n_classes: int | None) -> tuple[Tensor, int]:
        """Return labels below the number of classes, and that number."""
        if self.classes is not None and n_classes is not None and self.classes != n_classes:
            raise ModelError(f"the service returns {n_classes} classes, and classes is {self.classes}; leave it out")
        known, largest = self.classes or n_classes, int(labels.max())
        if known is not None:
            if largest >= known:
                raise ModelError(
                    f"the model returned label {largest}, and has {known} classes; give classes={largest + 1}"
                )
            return labels, known
        if not self.in_data:
            raise ModelError(
                "the model returns labels without the number of classes; give classes=, such as "
                'load_model(url, classes=10), or let the service add "classes": 10'
            )
        return labels.clamp_max(self.in_data), self.in_data + 1


def among(model: nn.Module, classes: int) -> nn.Module:
    """Return an `InferenceOnlyModel` with the number of classes of the data; any other model unchanged.

    Args:
        model: any network.
        classes: number of classes in the data.

    Returns:
        A model with the same outputs.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> among(model, 3) is model
        True
    """
    return model.among(classes) if isinstance(model, InferenceOnlyModel) else model
