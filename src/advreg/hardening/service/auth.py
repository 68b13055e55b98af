"""Who comes in, and how much each may ask for."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from advreg.errors import AdvregError, UploadError
from advreg.hardening.image_decoding import Limits
from advreg.hardening.media_types import IMAGES, Medium
from advreg.hardening.service.rate_limit import Buckets
from advreg.hardening.store.database import Store
from advreg.hardening.store.tokens import ApiToken, Role, bearer_of

_REMEMBER = 5.0  # seconds that a token is believed without asking again: a revoked one dies within them


@dataclass(frozen=True)
class Options:
    """How the service is bounded.

    Attributes:
        medium: what is kept, images or texts.
        limits: of one upload.
        batch: examples in one batch.
        rate, burst: examples a second for each token, and at once.
        classes: names of the classes; reviewers label with their numbers.
        neighbours: a ``.npz`` file with ``images`` and ``labels`` of trusted examples, shown beside what is reviewed.
    """

    medium: Medium = IMAGES
    limits: Limits = field(default_factory=Limits)
    batch: int = 256
    rate: float = 200.0
    burst: float = 1000.0
    classes: tuple[str, ...] = tuple("0123456789")
    neighbours: Path | None = None


@dataclass
class Authenticator:
    """Who comes in: tokens, remembered for a moment, and how much each may still ask for."""

    store: Store
    buckets: Buckets
    remembered: dict[str, tuple[float, ApiToken]] = field(default_factory=dict)

    def bearer(self, request: Request, *roles: Role) -> ApiToken:
        """Return who asks; an admin may do everything.

        Raises:
            Refused: no token, an unknown one, or one for something else.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationFailed(401, "no token; send the header Authorization: Bearer TOKEN")
        found = self._known(token)
        if found is None:
            raise AuthenticationFailed(401, "the token is unknown or was revoked; ask an admin for another")
        if found.role not in (*roles, Role.ADMIN):
            raise AuthenticationFailed(
                403, f"token {found.name!r} may {found.role}; this needs {' or '.join(roles) or 'admin'}"
            )
        return found

    def _known(self, token: str) -> ApiToken | None:
        now = time.monotonic()
        at, bearer = self.remembered.get(token, (-math.inf, None))
        if now - at < _REMEMBER:
            return bearer
        fresh = bearer_of(self.store, token)
        self.remembered.pop(token, None)
        if fresh is not None:
            self.remembered[token] = (now, fresh)
        return fresh

    def admit(self, bearer: ApiToken, count: int) -> None:
        """Count ``count`` examples against the bearer's rate.

        Raises:
            Refused: too many.
        """
        if count > self.buckets.burst:
            raise AuthenticationFailed(413, f"{count} examples at once; allowed: {self.buckets.burst:g}")
        if wait := self.buckets.take(bearer.name, count):
            seconds = math.ceil(wait)
            raise AuthenticationFailed(
                429, f"too many examples; try again in {seconds} s", {"Retry-After": str(seconds)}
            )


class AuthenticationFailed(AdvregError):
    """A request that is answered with a status and one line."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, which is never read beyond a limit, whatever its header says.

    Raises:
        UploadError: it is longer.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise UploadError(f"the body is longer than {limit} bytes", status=413)
    return bytes(body)
