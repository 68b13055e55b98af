"""Schemas of an upload: the deployed model's output, the principal, and optionally the submitter's label."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from advreg.config.error_messages import describe_invalid
from advreg.errors import UploadError
from advreg.hardening.image_decoding import Limits, to_npy
from advreg.hardening.media_types import Medium
from advreg.hardening.store.examples import Submission
from advreg.hardening.store.tokens import ApiToken
from advreg.hardening.texts.validation import decode_text
from advreg.plugins import first_line

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Label = Annotated[int, Field(ge=0, lt=1_000_000)]
_CONTENTS = ("data", "array", "text")
_DEEPEST = 4  # dimensions of an array: (1, C, H, W)
_PRINCIPAL = 200  # letters of a principal in the database, the token of its relay included

Answer = Annotated[str, Field(max_length=100_000)]
Scores = Annotated[list[float], Field(max_length=10_000)]

_FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class SubmissionClaim:
    """The facts that come with an image; unknown keys are rejected."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    model: Name
    prediction: Label
    principal: Name | None = None
    claimed: Label | None = None
    scores: Scores | None = None


@dataclass(frozen=True)
class TextClaim:
    """The facts that come with a text; the prediction is the deployed model's output, if there is one."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    model: Name
    prediction: Answer | None = None
    principal: Name | None = None
    claimed: Label | None = None
    scores: Scores | None = None


_ADAPTERS: dict[str, TypeAdapter[Any]] = {"images": TypeAdapter(SubmissionClaim), "texts": TypeAdapter(TextClaim)}


def claim_of(values: Mapping[str, Any], medium: Medium) -> Any:
    """Return the validated facts: a `SubmissionClaim` or a `TextClaim`.

    Args:
        values: key -> value, as the client sent them.
        medium: images or texts.

    Raises:
        UploadError: a key is missing or unknown, or a value is not allowed.
    """
    try:
        return _ADAPTERS[medium.name].validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] in ("missing", "unexpected_keyword_argument", "missing_argument"):
            known = ", ".join(SubmissionClaim.__dataclass_fields__)
            problem = "is missing" if "missing" in first["type"] else "is unknown"
            needed = "model needed" if medium.name == "texts" else "model and prediction needed"
            raise UploadError(f"{key[:60]!r} {problem}; the keys are {known}, {needed}") from None
        raise UploadError(describe_invalid(key, [first])[:300]) from None


def content_of(item: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a JSON item, and its other keys.

    The bytes are ``data`` (base64 of a file), ``array`` (nested lists) or ``text``.

    Args:
        item: one example of a request.

    Raises:
        UploadError: the item has none or several of these keys, or one that cannot be read.
    """
    if not isinstance(item, Mapping):
        raise UploadError("an example must be a JSON object with data, array or text, and model")
    rest = {key: value for key, value in item.items() if key not in _CONTENTS}
    if sum(key in item for key in _CONTENTS) != 1:
        raise UploadError("an example needs one of data (base64 of a file), array (nested lists) and text")
    if "array" in item:
        return _array(item["array"]), rest
    if "text" in item:
        return _encoded(item["text"]), rest
    try:
        return base64.b64decode(str(item["data"]), validate=True), rest
    except (binascii.Error, ValueError) as error:
        raise UploadError(f"data is not base64: {first_line(error)[:80]}") from error


def submission_of(
    content: bytes, values: Mapping[str, Any], bearer: ApiToken, medium: Medium, limits: Limits
) -> Submission:
    """Return a validated submission, ready to store.

    Args:
        content: the uploaded bytes.
        values: the facts that came with it.
        bearer: owner of the token.
        medium: images or texts.
        limits: limits of one upload.

    Returns:
        The submission.

    Raises:
        UploadError: content or facts cannot be used, or the token is no relay and names another principal.
    """
    claim = claim_of(values, medium)
    if claim.principal not in (None, bearer.name) and not bearer.relay:
        raise UploadError(
            f"token {bearer.name!r} submits for itself only; use a relay token, or leave principal out", 403
        )
    kind, fingerprint = medium.examine(content, limits)
    answer = claim.prediction if isinstance(claim, TextClaim) else None
    if answer:
        decode_text(_encoded(answer), limits.bytes)
    return Submission(
        content=content,
        kind=kind,
        looks=fingerprint,
        token=bearer.name,
        principal=_principal(claim.principal, bearer),
        tier=bearer.tier,
        model=claim.model,
        prediction=None if isinstance(claim, TextClaim) else claim.prediction,
        scores=claim.scores,
        claimed=claim.claimed,
        answer=answer,
    )


def _principal(named: str | None, bearer: ApiToken) -> str:
    """Return the principal of a submission; a relay's users carry its name, so that no token can impersonate another."""
    if named in (None, bearer.name):
        return bearer.name
    full = f"{bearer.name}/{named}"
    if len(full) > _PRINCIPAL:
        raise UploadError(f"principal has {len(full)} letters with the name of its relay; allowed: {_PRINCIPAL}")
    return full


def parse_json(body: bytes, values: int = 1_000_000) -> Any:
    """Return the JSON value of a body.

    The parser holds the interpreter from the first byte to the last, so the number of values is bounded before.

    Args:
        body: the bytes of a request.
        values: largest number of values in it, counted by their commas.

    Raises:
        UploadError: the body is not JSON, or it holds too many values.
    """
    if (count := body.count(b",")) > values:
        raise UploadError(
            f"the body holds {count} values; allowed: {values}; send arrays as data, base64 of a file", 413
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UploadError(f"the body is not JSON: {first_line(error)[:80]}", status=400) from error


def _encoded(text: Any) -> bytes:
    try:
        return str.encode(text, "utf-8")
    except (TypeError, UnicodeEncodeError) as error:
        raise UploadError(f"text is not valid Unicode: {first_line(error)[:80]}") from error


def _array(nested: Any) -> bytes:
    """Return nested lists of numbers as the bytes of a ``.npy`` file.

    numpy alone would give every text of a list the room of the longest one.
    """
    shape, numbers = _flatten(nested)
    kinds = set(map(type, numbers))
    if kinds == {int} and min(numbers) >= 0 and max(numbers) <= 255:
        return to_npy(np.array(numbers, dtype=np.uint8).reshape(shape))
    if not kinds <= {int, float} or float not in kinds:
        raise UploadError("the array must hold whole numbers from 0 to 255, or floats in [0, 1]")
    try:
        with np.errstate(over="ignore"):  # 1e300 becomes inf, which the decoder rejects
            return to_npy(np.array(numbers, dtype=np.float64).astype(np.float32).reshape(shape))
    except OverflowError:
        raise UploadError("the array holds a number that no float can hold; send floats in [0, 1]") from None


def _flatten(nested: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists and their elements in order."""
    shape: list[int] = []
    level = [nested]
    while isinstance(level[0], list):
        lengths = {len(row) if isinstance(row, list) else -1 for row in level}
        if len(lengths) > 1 or lengths == {0} or len(shape) == _DEEPEST:
            raise UploadError("the array is empty, too deep or its rows have different lengths; send one image")
        shape += lengths
        level = list(chain.from_iterable(level))
    return tuple(shape), level
