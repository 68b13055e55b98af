"""Authentication by bearer token, rate limits, and the size limit of a request body."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from advreg.errors import AdvregError, UploadError
from advreg.hardening.image_decoding import Limits
from advreg.hardening.media_types import IMAGES, Medium
from advreg.hardening.service.connections import address_of
from advreg.hardening.service.rate_limit import Buckets, FailedLogins
from advreg.hardening.store.database import Store
from advreg.hardening.store.tokens import ApiToken, Role, bearer_of

_REMEMBER = 5.0  # seconds that a token is cached; a revoked token works no longer than that


@dataclass(frozen=True)
class Options:
    """Limits and contents of the service.

    Attributes:
        medium: images or texts.
        limits: limits of one upload.
        batch: largest number of examples in one batch.
        rate: examples per second for each token.
        burst: examples at once for each token.
        token_bytes: bytes that one token may keep in the store.
        total_bytes: bytes that all tokens may keep.
        failed_logins: wrong tokens a minute from one address, and of one token from anywhere.
        classes: names of the classes; a label is an index into them.
        opinions: reviews after which an example is confirmed and no longer shown for another opinion.
        neighbours: a ``.npz`` file with ``images`` and ``labels`` of trusted examples, shown beside a reviewed image.
    """

    medium: Medium = IMAGES
    limits: Limits = field(default_factory=Limits)
    batch: int = 256
    rate: float = 200.0
    burst: float = 1000.0
    token_bytes: int = 1 << 30
    total_bytes: int = 10 << 30
    failed_logins: int = 20
    classes: tuple[str, ...] = tuple("0123456789")
    opinions: int = 2
    neighbours: Path | None = None


@dataclass
class Authenticator:
    """Authenticates requests with a short cache of tokens, and applies the rate limits.

    Attributes:
        store: the store with the tokens.
        buckets: the rate limits.
        failed: the limit of wrong tokens.
        remembered: token -> time of the lookup and owner.
    """

    store: Store
    buckets: Buckets
    failed: FailedLogins
    remembered: dict[str, tuple[float, ApiToken]] = field(default_factory=dict)

    def bearer(self, request: Request, *roles: Role) -> ApiToken:
        """Return the owner of the request's token; an admin has every role.

        Args:
            request: the request.
            roles: the roles that are allowed.

        Raises:
            AuthenticationFailed: the token is missing, unknown or of another role, or there were too many wrong ones.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationFailed(401, "no token; send the header Authorization: Bearer TOKEN")
        found = self._known(token, address_of(request.client))
        if found is None:
            raise AuthenticationFailed(401, "the token is unknown or was revoked; get another one from an admin")
        if found.role not in (*roles, Role.ADMIN):
            raise AuthenticationFailed(
                403, f"token {found.name!r} may {found.role}; this needs {' or '.join(roles) or 'admin'}"
            )
        return found

    def _known(self, token: str, address: str) -> ApiToken | None:
        """Return the owner of a token. One that was valid before is looked up whatever else its address sends."""
        now = time.monotonic()
        at, bearer = self.remembered.get(token, (-math.inf, None))
        if now - at < _REMEMBER:
            return bearer
        if bearer is None and (wait := self.failed.wait(address, token)):
            raise _too_many("wrong tokens", wait)
        fresh = bearer_of(self.store, token)
        self.remembered.pop(token, None)
        if fresh is None:
            self.failed.count(address, token)
        else:
            self.remembered[token] = (now, fresh)
        return fresh

    def admit(self, bearer: ApiToken, count: int) -> None:
        """Count examples against the rate limit of a token.

        Args:
            bearer: owner of the token.
            count: number of examples.

        Raises:
            AuthenticationFailed: the limit is exceeded.
        """
        if count > self.buckets.burst:
            raise AuthenticationFailed(413, f"{count} examples at once; allowed: {self.buckets.burst:g}")
        if wait := self.buckets.take(bearer.name, count):
            raise _too_many("examples", wait)


class AuthenticationFailed(AdvregError):
    """A request is rejected with an HTTP status and one line."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


def _too_many(what: str, wait: float) -> AuthenticationFailed:
    seconds = math.ceil(wait)
    return AuthenticationFailed(429, f"too many {what}; try again in {seconds} s", {"Retry-After": str(seconds)})


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request, reading no more than a limit whatever its header claims.

    Args:
        request: the request.
        limit: largest number of bytes.

    Raises:
        UploadError: the body is longer.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise UploadError(f"the body is longer than {limit} bytes", status=413)
    return bytes(body)
