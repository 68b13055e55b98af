"""What comes with an upload: the deployed model's answer, on whose behalf it comes, and perhaps a claim what it is."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from advreg.config.explain import wrong
from advreg.errors import UploadError
from advreg.hardening.content import Limits, decode, to_npy
from advreg.hardening.looks import looks
from advreg.hardening.store.examples import Submission
from advreg.hardening.store.tokens import Bearer
from advreg.imports import first_line

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Label = Annotated[int, Field(ge=0, lt=1_000_000)]


@dataclass(frozen=True)
class Claim:
    """Everything about an upload but its bytes; unknown keys are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: Name
    prediction: Label
    principal: Name | None = None
    claimed: Label | None = None
    scores: Annotated[list[float], Field(max_length=10_000)] | None = field(default=None)


_ADAPTER = TypeAdapter(Claim)


def claim_of(values: Mapping[str, Any]) -> Claim:
    """Return what was claimed, checked.

    Raises:
        UploadError: a missing, unknown or impossible value.
    """
    try:
        return _ADAPTER.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] in ("missing", "unexpected_keyword_argument", "missing_argument"):
            known = ", ".join(Claim.__dataclass_fields__)
            said = "is missing" if "missing" in first["type"] else "is unknown"
            raise UploadError(f"{key[:60]!r} {said}; the keys are {known}, model and prediction needed") from None
        raise UploadError(wrong(key, [first])[:300]) from None


def content_of(item: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a JSON item (``data``: base64 of a file, or ``array``: nested lists), and its other keys.

    Raises:
        UploadError: neither or both of them, or one that cannot be read.
    """
    if not isinstance(item, Mapping):
        raise UploadError("an example must be a JSON object with data or array, model and prediction")
    rest = {key: value for key, value in item.items() if key not in ("data", "array")}
    if ("data" in item) == ("array" in item):
        raise UploadError("an example needs one of data (base64 of a PNG, JPEG or .npy file) and array (nested lists)")
    if "array" in item:
        return _array(item["array"]), rest
    try:
        return base64.b64decode(str(item["data"]), validate=True), rest
    except (binascii.Error, ValueError) as error:
        raise UploadError(f"data is not base64: {first_line(error)[:80]}") from error


def submission_of(content: bytes, values: Mapping[str, Any], bearer: Bearer, limits: Limits) -> Submission:
    """Return a checked submission, ready to be stored.

    Raises:
        UploadError: content or claim cannot be used, or a token speaks for others without being a relay.
    """
    claim = claim_of(values)
    if claim.principal not in (None, bearer.name) and not bearer.relay:
        raise UploadError(
            f"token {bearer.name!r} submits for itself only; ask for a relay token, or leave principal out", 403
        )
    kind, pixels = decode(content, limits)
    mine = claim.principal if claim.principal is not None else bearer.name
    return Submission(
        content=content,
        kind=kind,
        looks=looks(pixels),
        token=bearer.name,
        principal=mine if mine == bearer.name else f"{bearer.name}/{mine}",  # nobody can pose as another token's
        tier=bearer.tier,
        model=claim.model,
        prediction=claim.prediction,
        scores=claim.scores,
        claimed=claim.claimed,
    )


def parsed(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        UploadError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UploadError(f"the body is not JSON: {first_line(error)[:80]}", status=400) from error


def _array(nested: Any) -> bytes:
    try:
        array = np.asarray(nested)
    except (ValueError, RecursionError) as error:
        raise UploadError("the array's rows have different lengths; send one rectangular image") from error
    if array.dtype.kind == "i" and array.size and array.min() >= 0 and array.max() <= 255:
        return to_npy(array.astype(np.uint8))
    if array.dtype.kind != "f":
        raise UploadError("the array must hold whole numbers from 0 to 255, or floats in [0, 1]")
    return to_npy(array.astype(np.float32))
