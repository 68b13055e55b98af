"""Malformed requests of every kind that a client can send, by name: each must end in 4xx with one line under ``error``."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

from advreg.hardening.image_decoding import to_npy
from tests.hardening.conftest import png
from tests.hardening.test_image_decoding import bomb, claimed, encoded, header_of

FACTS = {"model": "m1", "prediction": 3}
ROLES = {"submit": "server", "relay": "gateway", "review": "ann", "admin": "root"}


@dataclass(frozen=True)
class Malformed:
    """A request, the role that sends it, and a name for the test's report."""

    name: str
    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    role: str = "submit"


def every_kind(example: str) -> list[Malformed]:
    """Return all malformed requests; ``example`` is the SHA-256 of a stored example."""
    return [
        *_contents(),
        *_claims(),
        *_json_bodies(),
        *_json_values(),
        *_batches(),
        *_reviews(example),
        *_exports(example),
        *_urls(),
    ]


def _upload(name: str, content: bytes, query: str = "model=m1&prediction=3") -> Malformed:
    return Malformed(name, "POST", f"/v1/examples?{query}", content)


def _json(name: str, body: bytes | Any, path: str = "/v1/examples", role: str = "submit") -> Malformed:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Malformed(name, "POST", path, content, {"Content-Type": "application/json"}, role)


def _chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def _contents() -> Iterator[Malformed]:
    picture, grey = png(1), np.zeros((28, 28), dtype=np.uint8)
    other = {
        "empty": b"",
        "one byte": b"\0",
        "text": b"hello",
        "gif": b"GIF89a" + b"\0" * 50,
        "webp": b"RIFF\0\0\0\0WEBPVP8 ",
        "tiff": b"II*\0" + b"\0" * 100,
        "bmp": b"BM" + b"\0" * 100,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "pdf": b"%PDF-1.7\n",
        "zip": b"PK\x03\x04" + b"\0" * 60,
        "gzip of a png": gzip.compress(picture),
        "pickle": pickle.dumps({"x": 1}),
        "elf": b"\x7fELF" + b"\0" * 60,
        "html": b"<script>alert(1)</script>",
        "png signature alone": picture[:8],
        "png cut in its header": picture[:20],
        "png cut in its data": picture[:100],
        "png without end of data": picture[:45],
        "png of another size": png(1, size=30),
        "png of 50,000 pixels a side": bomb(50_000),
        "png of 4,096 pixels a side": bomb(4096),
        "png of size zero": header_of(0, 0),
        "png of size 2^31": header_of(1 << 31, 1 << 31),
        "png of bit depth 3": header_of(28, 28, depth=3),
        "png of colour type 5": header_of(28, 28, colour=5),
        "png with a wrong checksum": picture[:8] + _chunk(b"IHDR", picture[16:29], crc=1) + picture[33:],
        "png with a chunk of 2^31 bytes": picture[:33] + struct.pack(">I", 1 << 31) + b"IDAT" + b"\0" * 50,
        "png with a bomb of text": picture[:33] + _chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (64 << 20))) + picture[33:],
        "png with data that is not deflated": header_of(28, 28) + _chunk(b"IDAT", b"\xff" * 50) + _chunk(b"IEND", b""),
        "jpeg start alone": b"\xff\xd8\xff",
        "jpeg of noise": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4,
        "jpeg cut": encoded_grey()[:100],
        "npy signature alone": b"\x93NUMPY",
        "npy of version 9": b"\x93NUMPY\x09\x00" + to_npy(grey)[8:],
        "npy with a nested header": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 5000,
        "npy of petabytes": claimed((1 << 25, 1 << 25)),
        "npy of 2^70 rows": claimed((1 << 70, 28)),
        "npy of negative shape": claimed((-28, -28)),
        "npy of objects": claimed((28, 28), "|O"),
        "npy of complex numbers": to_npy(np.zeros((28, 28), dtype=np.complex64)),
        "npy of text": to_npy(np.full((28, 28), "a")),
        "npy of dates": to_npy(np.zeros((28, 28), dtype="datetime64[s]")),
        "npy of records": to_npy(np.zeros((28, 28), dtype=[("a", "u1"), ("b", "<f4")])),
        "npy without data": claimed((28, 28)),
        "npy with a tail": to_npy(grey) + b"tail",
        "npy of one dimension": to_npy(np.zeros(784)),
        "npy of 32 dimensions": to_npy(np.zeros((1,) * 32)),
        "npy of shape ()": to_npy(np.float32(0)),
        "npy of no elements": to_npy(np.zeros((0, 28))),
        "npy of two channels": to_npy(np.zeros((2, 28, 28))),
        "npy of another size": to_npy(np.zeros((27, 28))),
        "npy of two images": to_npy(np.zeros((2, 1, 28, 28))),
        "npy out of the box": to_npy(np.full((28, 28), 2.0)),
        "npy of nan": to_npy(np.full((28, 28), np.nan)),
        "npy of inf": to_npy(np.full((28, 28), np.inf)),
        "npy of 1e300": to_npy(np.full((28, 28), 1e300)),
        "more bytes than allowed": picture + b"\0" * 20_000,
        "far more bytes than allowed": b"\0" * 60_000,
    }  # fmt: skip
    return (_upload(name, content) for name, content in other.items())


def encoded_grey() -> bytes:
    """Return a JPEG."""
    from PIL import Image

    return encoded(Image.fromarray(np.zeros((28, 28), dtype=np.uint8)), "JPEG")


def _claims() -> Iterator[Malformed]:
    queries = {
        "no facts": "",
        "no model": "prediction=3",
        "no prediction": "model=m1",
        "an empty model": "model=&prediction=3",
        "a model with a line break": "model=a%0ab&prediction=3",
        "a model with NUL": "model=a%00b&prediction=3",
        "a long model": f"model={'m' * 201}&prediction=3",
        "a prediction in words": "model=m1&prediction=three",
        "a negative prediction": "model=m1&prediction=-1",
        "a fractional prediction": "model=m1&prediction=1.5",
        "a prediction of 5,000 digits": f"model=m1&prediction={'9' * 5000}",
        "a prediction of 1e400": "model=m1&prediction=1e400",
        "an unknown key": "model=m1&prediction=3&path=../../etc/passwd",
        "scores in words": "model=m1&prediction=3&scores=a,b",
        "scores of nan": "model=m1&prediction=3&scores=nan,1",
        "empty scores": "model=m1&prediction=3&scores=,",
        "too many scores": f"model=m1&prediction=3&scores={'1,' * 10_001}",
        "another principal": "model=m1&prediction=3&principal=eve",
        "a claim in words": "model=m1&prediction=3&claimed=cat",
        "a claim of 10^9": "model=m1&prediction=3&claimed=1000000000",
    }
    yield from (_upload(name, png(2), query) for name, query in queries.items())
    long = "model=m1&prediction=3&principal=" + "p" * 200
    yield Malformed("a principal longer than the table takes", "POST", f"/v1/examples?{long}", png(2), {}, "relay")
    yield Malformed("a principal with NUL", "POST", f"/v1/examples?{long[:-200]}a%00", png(2), {}, "relay")


def _json_bodies() -> Iterator[Malformed]:
    bodies = {
        "nothing": b"",
        "half an object": b"{",
        "a trailing comma": b'{"model": "m1",}',
        "20,000 brackets": b"[" * 20_000,
        "5,000 objects deep": b'{"a":' * 5000,
        "bytes that are not UTF-8": b'{"model": "\xff\xfe"}',
        "UTF-16 without a partner": b"\xff\xfe{\x00\xd8",
        "a number of 5,000 digits": b'{"prediction": ' + b"9" * 5000 + b"}",
        "NUL": b"\0" * 100,
        "xml": b"<a/>",
        "a number": b"3",
        "a text": b'"x"',
        "null": b"null",
        "true": b"true",
        "a list": b"[]",
        "an empty object": b"{}",
        "20,000 values": b"[" + b"0," * 19_000 + b"0]",
    }
    return (_json(f"json: {name}", body) for name, body in bodies.items())


def _json_values() -> Iterator[Malformed]:
    good = base64.b64encode(png(3)).decode()
    zeros = [[0] * 28 for _ in range(28)]
    values: dict[str, Any] = {
        "no content": {},
        "two contents": {"data": good, "text": "x"},
        "data not base64": {"data": "!"},
        "data not ASCII": {"data": "ä" * 8},
        "data a number": {"data": 5},
        "data null": {"data": None},
        "data a list": {"data": [good]},
        "data of noise": {"data": base64.b64encode(bytes(100)).decode()},
        "array a number": {"array": 5},
        "array null": {"array": None},
        "array a text": {"array": "x"},
        "array an object": {"array": {"0": 1}},
        "array empty": {"array": []},
        "array of empty rows": {"array": [[], []]},
        "array ragged": {"array": [[1, 2], [3]]},
        "array ragged in depth": {"array": [[1], 2]},
        "array of texts": {"array": [["a"] * 28] * 28},
        "array of numbers as text": {"array": [["1"] * 28] * 28},
        "array of one long text": {"array": ["a" * 4000, *[""] * 2000]},
        "array of null": {"array": [[None] * 28] * 28},
        "array of true": {"array": [[True] * 28] * 28},
        "array of 300": {"array": [[300] * 28] * 28},
        "array of -1": {"array": [[-1] * 28] * 28},
        "array of 2^70": {"array": [[2**70] * 28] * 28},
        "array of 10^400": {"array": [[10**400] * 28] * 28},
        "array of 1e39": {"array": [[1e39] * 28] * 28},
        "array of 70 dimensions": {"array": json.loads("[" * 70 + "0" + "]" * 70)},
        "array of another size": {"array": [[0] * 5] * 5},
        "text in a home of images": {"text": "how do I"},
        "text of a lone surrogate": {"text": "\ud800"},
        "model null": {"array": zeros, "model": None},
        "model a list": {"array": zeros, "model": ["m"]},
        "model of a lone surrogate": {"array": zeros, "model": "\ud800"},
        "model with DEL": {"array": zeros, "model": "\x7f"},
        "prediction null": {"array": zeros, "prediction": None},
        "prediction a list": {"array": zeros, "prediction": [1]},
        "prediction a text of a home of texts": {"array": zeros, "prediction": "no"},
        "prediction 10^30": {"array": zeros, "prediction": 10**30},
        "prediction 1e400": {"array": zeros, "prediction": float("inf")},
        "scores a number": {"array": zeros, "scores": 1},
        "scores of nan": {"array": zeros, "scores": [float("nan")]},
        "scores of 1e400": {"array": zeros, "scores": [float("inf")]},
        "scores nested": {"array": zeros, "scores": [[1]]},
        "scores an object": {"array": zeros, "scores": {"a": 1}},
        "claimed negative": {"array": zeros, "claimed": -1},
        "principal a number": {"array": zeros, "principal": 5},
        "principal of another": {"array": zeros, "principal": "eve"},
        "an unknown key": {"array": zeros, "__class__": "x"},
        "an unknown key of 1,000 letters": {"array": zeros, "k" * 1000: "x"},
        "an empty key": {"array": zeros, "": "x"},
    }
    for name, value in values.items():
        yield _json(f"value: {name}", {**FACTS, **value})


def _batches() -> Iterator[Malformed]:
    good = {"data": base64.b64encode(png(4)).decode(), **FACTS}
    bodies: dict[str, Any] = {
        "an object": good,
        "empty": [],
        "too many": [good] * 300,
        "a number among them": [good, 7],
        "null among them": [good, None],
        "a list among them": [good, [good]],
        "a bad example among them": [good, {**good, "prediction": -1}],
        "a damaged image among them": [good, {"data": "AAAA", **FACTS}],
        "not JSON": b"[{]",
        "half a list": b'[{"model": "m1"}',
        "something after the list": b"[] []",
        "too long": b"[" + b" " * 200_000 + b"]",
        "too many values": b"[" + b"0," * 70_000 + b"0]",
    }
    return (_json(f"batch: {name}", body, "/v1/batch") for name, body in bodies.items())


def _reviews(example: str) -> Iterator[Malformed]:
    bodies: dict[str, Any] = {
        "not JSON": b"{",
        "a list": [],
        "empty": {},
        "a label as text": {"label": "4"},
        "a label that is true": {"label": True},
        "a fractional label": {"label": 1.5},
        "a negative label": {"label": -1},
        "a label of 10^9": {"label": 10**9},
        "a label of 10^30": {"label": 10**30},
        "another key": {"label": 4, "x": 1},
        "too long": b" " * 20_000,
    }
    for name, body in bodies.items():
        yield _json(f"review: {name}", body, f"/v1/review/{example}", "review")
    for name in ("0" * 64, "x", "%00", "..%2Fx", quote("ä"), "%ff", "y" * 5000):
        yield _json(f"review of {name[:8]!r}", {"label": 1}, f"/v1/review/{name}", "review")
        yield Malformed(f"undo of {name[:8]!r}", "DELETE", f"/v1/review/{name}", role="review")
        yield Malformed(f"status of {name[:8]!r}", "GET", f"/v1/examples/{name}")


def _exports(example: str) -> Iterator[Malformed]:
    bodies: dict[str, Any] = {"an object": {}, "numbers": [1], "a text": "x", "not JSON": b"[", "null": None}
    bodies |= {"data a number": [{"data": 5, "annotations": _annotations("1")}], "data a list": [{"data": [1]}]}
    bodies |= {"no data": [{"annotations": _annotations("1")}]}
    return (_json(f"export: {name}", body, "/v1/labelstudio", "review") for name, body in bodies.items())


def _annotations(choice: str) -> list[dict[str, Any]]:
    return [{"result": [{"type": "choices", "value": {"choices": [choice]}}]}]


def _urls() -> Iterator[Malformed]:
    for method, path, role in (
        ("GET", "/", "submit"),
        ("GET", "/nowhere", "submit"),
        ("GET", "/%00", "submit"),
        ("GET", "/v1/examples", "submit"),
        ("PUT", "/v1/examples", "submit"),
        ("PATCH", "/v1/batch", "submit"),
        ("DELETE", "/healthz", "submit"),
        ("GET", "/v1/queue?limit=x", "review"),
        ("GET", "/v1/queue?limit=" + "9" * 5000, "review"),
        ("GET", "/v1/queue?second=perhaps", "review"),
        ("GET", "/v1/labelstudio?limit=1.5", "review"),
        ("GET", "/metrics", "submit"),
    ):
        yield Malformed(f"{method} {path[:30]}", method, path, role=role)
