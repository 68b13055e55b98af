"""The review page, its requests, and the exchange with Label Studio."""

from __future__ import annotations

import secrets
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from advreg.errors import UploadError
from advreg.hardening.image_decoding import Pixels
from advreg.hardening.ingestion import queue
from advreg.hardening.known_examples import SEEDER
from advreg.hardening.media_types import medium_of, pixels_in, uri
from advreg.hardening.service import labelstudio, schemas
from advreg.hardening.service.auth import Authenticator, Options, read_body
from advreg.hardening.service.headers import CLOSED
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row, Verdict, answer_to, example, review, undo
from advreg.hardening.store.tables import examples
from advreg.hardening.store.tokens import ApiToken, Role
from advreg.hardening.texts.validation import show_invisible

_NEAREST = 5


def add_review(app: FastAPI, store: Store, options: Options, door: Authenticator) -> None:
    """Add the routes of the review page to the application.

    Args:
        app: the application.
        store: the store of the workspace.
        options: limits, classes and medium.
        door: authenticates the reviewers.

    Raises:
        UploadError: a route, for a request that it rejects.
    """

    @app.get("/review")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        own = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'"
        policy = {"Content-Security-Policy": f"default-src 'none'; {own}; {CLOSED}"}
        return HTMLResponse(_page().replace("NONCE", nonce), headers=policy)

    @app.get("/v1/queue")
    def waiting(request: Request, limit: int = 20, second: bool = False) -> Any:
        bearer = door.bearer(request, Role.REVIEW)
        rows = queue(store, bearer.name, max(1, min(limit, 200)), second, options.opinions)
        shown = [_shown(store, row, options) for row in rows]
        return {"medium": options.medium.name, "classes": options.classes, "examples": shown}

    @app.post("/v1/review/{name}")
    async def verdict(name: str, request: Request) -> Any:
        bearer = await run_in_threadpool(door.bearer, request, Role.REVIEW)
        body = schemas.parse_json(await read_body(request, 10_000))
        label = body.get("label") if isinstance(body, dict) else None
        if (
            not isinstance(body, dict)
            or set(body) != {"label"}
            or isinstance(label, bool)
            or not isinstance(label, int | None)
        ):
            raise UploadError('a review is {"label": NUMBER}, or {"label": null} to reject')
        given = Verdict(name, bearer.name, label)
        return {"state": await run_in_threadpool(review, store, given, len(options.classes))}

    @app.delete("/v1/review/{name}")
    def take_back(name: str, request: Request) -> Any:
        return {"state": undo(store, name, door.bearer(request, Role.REVIEW).name)}

    @app.get("/v1/labelstudio")
    def export(request: Request, limit: int = 200, second: bool = False) -> Any:
        bearer = door.bearer(request, Role.REVIEW)
        rows = queue(store, bearer.name, max(1, min(limit, 5000)), second, options.opinions)
        return labelstudio.tasks(store, rows, options.classes)

    @app.get("/v1/labelstudio/config")
    def interface(request: Request) -> Response:
        door.bearer(request, Role.REVIEW)
        return PlainTextResponse(labelstudio.config(options.classes, options.medium))

    @app.post("/v1/labelstudio")
    async def bring_back(request: Request) -> Any:
        bearer = await run_in_threadpool(door.bearer, request, Role.REVIEW)
        body = await read_body(request, 16 * options.limits.bytes)
        return await run_in_threadpool(import_body, bearer, body)

    def import_body(bearer: ApiToken, body: bytes) -> dict[str, str]:
        return labelstudio.import_annotations(store, schemas.parse_json(body), bearer.name, options.classes)


@cache
def _page() -> str:
    return (files("advreg.hardening.service") / "page.html").read_text(encoding="utf-8")


def _shown(store: Store, row: Row, options: Options) -> dict[str, Any]:
    """Return the facts that the page shows of an example; the submitter's label is left out."""
    content, medium = store.blobs.get(row["sha256"]), medium_of(row["kind"])
    with store.reading() as db:
        alike = db.execute(sa.select(sa.func.count()).where(examples.c.cluster == row["cluster"])).scalar()
        fresh, answer = example(db, row["sha256"]), answer_to(db, row["sha256"])
    kept = (
        "sha256",
        "state",
        "model",
        "prediction",
        "scores",
        "suspicion",
        "disagrees",
        "cluster",
        "copies",
        "tier",
        "principal",
    )
    near = (
        []
        if options.neighbours is None
        else _neighbours(options.neighbours, pixels_in(content), row["token"] == SEEDER)
    )
    context = {"answer": None if answer is None else show_invisible(answer), "alike": alike, "neighbours": near}
    facts = {**{key: fresh[key] for key in kept}, "prediction": row["prediction"]}
    return {**facts, **medium.shown(content), **context}


def _neighbours(file: Path, pixels: Pixels, known: bool) -> list[dict[str, Any]]:
    """Return the trusted examples nearest in pixels, with their labels; of a known example, not the one that it was made of."""
    images, labels = _trusted(file)
    if images.shape[1:] != pixels.shape:
        return []
    flat = images.reshape(len(images), -1).astype(np.float32) / 255
    nearest = np.argsort(np.square(flat - pixels.ravel()).sum(1))[int(known) :][:_NEAREST]
    return [{"image": uri(images[k] / np.float32(255)), "label": int(labels[k])} for k in nearest]


@cache
def _trusted(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]
