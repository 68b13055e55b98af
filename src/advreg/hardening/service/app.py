"""The application: routes, permissions and error responses.

bytes -> size limit -> token -> rate limit -> type detection and decoding -> storage -> acknowledgement
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from advreg.errors import AdvregError, HardeningError, StoreError, UploadError
from advreg.hardening.service import schemas
from advreg.hardening.service.auth import AuthenticationFailed, Authenticator, Options, read_body
from advreg.hardening.service.headers import SecureHeaders
from advreg.hardening.service.health import Health
from advreg.hardening.service.metrics import Metrics
from advreg.hardening.service.quota import Quotas
from advreg.hardening.service.rate_limit import Buckets, FailedLogins
from advreg.hardening.service.review import add_review
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import example, receive
from advreg.hardening.store.tokens import ApiToken, Role
from advreg.version import __version__

Item = tuple[bytes, dict[str, Any]]


def create_app(store: Store, options: Options) -> FastAPI:
    """Return the service as an ASGI application.

    Args:
        store: the store of the workspace.
        options: limits, classes and medium.
    """
    app = FastAPI(title="advreg harden", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    door = Authenticator(store, Buckets(options.rate, options.burst), FailedLogins(options.failed_logins))
    health, metrics = Health(store), Metrics(store)
    app.add_middleware(SecureHeaders)
    _add_error_handlers(app, metrics, health)
    _add_ingest(app, store, options, door, metrics)
    _add_watch(app, health, door, metrics)
    add_review(app, store, options, door)
    return app


def _add_error_handlers(app: FastAPI, metrics: Metrics, health: Health) -> None:
    """Return every error in one form: a status, and one line under ``error``."""

    def respond(status: int, error: Exception, headers: dict[str, str] | None = None) -> JSONResponse:
        metrics.refused.labels(str(status)).inc()
        return JSONResponse({"error": str(error)}, status, headers)

    def unauthorized(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AuthenticationFailed)
        return respond(error.status, error, error.headers)

    def upload(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, UploadError)
        return respond(error.status, error)

    def down(_: Request, error: Exception) -> JSONResponse:
        health.doubt()
        return respond(503, StoreError("the store is down"), {"Retry-After": "2"})

    def routing(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return respond(error.status_code, AdvregError(f"{error.detail}; see the list of requests in the documentation"))

    def query(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return respond(422, AdvregError(f"{str(first['loc'][-1])[:60]}: {first['msg']}"[:300].replace("\n", " ")))

    app.add_exception_handler(AuthenticationFailed, unauthorized)
    app.add_exception_handler(UploadError, upload)
    app.add_exception_handler(HardeningError, lambda _, error: respond(409, error))
    app.add_exception_handler(StoreError, down)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(RequestValidationError, query)
    app.add_exception_handler(ClientDisconnect, lambda _, error: respond(400, AdvregError("the body is incomplete")))
    app.add_exception_handler(Exception, lambda _, error: respond(500, AdvregError("the service failed; see its log")))


def _add_ingest(app: FastAPI, store: Store, options: Options, door: Authenticator, metrics: Metrics) -> None:
    quotas = Quotas(store, options.token_bytes, options.total_bytes)

    def store_all(bearer: ApiToken, items: list[Item]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        door.admit(bearer, len(items))
        given = [
            schemas.submission_of(content, claim, bearer, options.medium, options.limits) for content, claim in items
        ]
        quotas.refresh()
        receipts = receive(store, given, lambda db, stored: quotas.check(db, bearer.name, stored))
        metrics.seconds.observe(time.perf_counter() - began)
        for receipt in receipts:
            (metrics.copies if receipt.known else metrics.ingested).labels(bearer.tier).inc()
        return [{"id": receipt.id, "state": receipt.state, "known": receipt.known} for receipt in receipts]

    def store_one(bearer: ApiToken, body: bytes, facts: dict[str, Any] | None) -> dict[str, Any]:
        item = (body, facts) if facts is not None else schemas.content_of(schemas.parse_json(body))
        return store_all(bearer, [item])[0]

    def store_batch(bearer: ApiToken, body: bytes) -> list[dict[str, Any]]:
        listed = schemas.parse_json(body)
        if not isinstance(listed, list) or not 1 <= len(listed) <= options.batch:
            raise UploadError(f"a batch is a JSON list of 1 to {options.batch} examples")
        return store_all(bearer, [schemas.content_of(item) for item in listed])

    @app.post("/v1/examples", status_code=201)
    async def submit(request: Request) -> Any:
        bearer = await run_in_threadpool(door.bearer, request, Role.SUBMIT)
        body = await read_body(request, 2 * options.limits.bytes)
        is_json = request.headers.get("content-type", "").startswith("application/json")
        return await run_in_threadpool(store_one, bearer, body, None if is_json else _query(request))

    @app.post("/v1/batch", status_code=201)
    async def submit_many(request: Request) -> Any:
        bearer = await run_in_threadpool(door.bearer, request, Role.SUBMIT)
        body = await read_body(request, 8 * options.limits.bytes)
        return await run_in_threadpool(store_batch, bearer, body)

    @app.get("/v1/examples/{name}")
    def status(name: str, request: Request) -> Any:
        bearer = door.bearer(request, Role.SUBMIT, Role.REVIEW)
        with store.reading() as db:
            row = _found(db, name)
        if bearer.role == Role.SUBMIT and row["token"] != bearer.name:
            raise AuthenticationFailed(
                404, f"token {bearer.name!r} submitted no example {name[:12]!r}; use the token that submitted it"
            )
        return {
            key: row[key] for key in ("sha256", "state", "principal", "model", "prediction", "copies", "received_at")
        }


def _add_watch(app: FastAPI, health: Health, door: Authenticator, metrics: Metrics) -> None:
    @app.get("/healthz")
    def healthy() -> Any:
        health.check()
        return {"status": "ok"}

    @app.get("/metrics")
    def numbers(request: Request) -> Response:
        door.bearer(request)
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _found(db: Any, name: str) -> Any:
    try:
        return example(db, name)
    except HardeningError as error:
        raise AuthenticationFailed(404, str(error)) from error


def _query(request: Request) -> dict[str, Any]:
    values: dict[str, Any] = dict(request.query_params)
    if "scores" in values:
        values["scores"] = values["scores"].split(",")
    return values
