"""Bearer tokens: shown once, stored as hashes, each with a role and a tier of trust."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import tokens


class Role(StrEnum):
    """Permissions of a token: submit examples; review them; both, and read the metrics."""

    SUBMIT = "submit"
    REVIEW = "review"
    ADMIN = "admin"


class Tier(StrEnum):
    """Trust in a submitter, most trusted first."""

    INTERNAL = "internal"
    CUSTOMER = "customer"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class ApiToken:
    """Owner and permissions of a token; a relay may submit on behalf of other users."""

    name: str
    role: Role
    tier: Tier
    relay: bool = False


def issue(store: Store, bearer: ApiToken) -> str:
    """Create a token, store its hash, and return the token; it cannot be shown again.

    Args:
        store: the store.
        bearer: name, role, tier and relay of the token.

    Raises:
        HardeningError: the name is taken or not allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.@-]{0,99}", bearer.name):
        raise HardeningError(f"token name is {bearer.name!r}; allowed: letters, digits and . _ - @, up to 100")
    token = secrets.token_urlsafe(32)
    with store.writing() as db:
        if db.execute(sa.select(tokens.c.name).where(tokens.c.name == bearer.name)).first():
            raise HardeningError(f"there is a token {bearer.name!r} already; revoke it, or choose another name")
        db.execute(tokens.insert().values(**vars(bearer), digest=_digest(token), revoked=False))
        detail = {"role": bearer.role, "tier": bearer.tier, "relay": bearer.relay}
        append(db, store.clock(), [Entry("admin", "token", bearer.name, detail)])
    return token


def revoke_token(store: Store, name: str) -> None:
    """Revoke a token.

    Args:
        store: the store.
        name: the token's name.

    Raises:
        HardeningError: no token has this name.
    """
    with store.writing() as db:
        if not db.execute(tokens.update().where(tokens.c.name == name).values(revoked=True)).rowcount:
            raise HardeningError(f"no token {name!r}; `advreg harden token list` shows them")
        append(db, store.clock(), [Entry("admin", "token revoked", name, {})])


def bearer_of(store: Store, token: str) -> ApiToken | None:
    """Return the owner of a token; None if it is unknown or revoked.

    The token is 256 random bits, so its hash needs no salt and comparing hashes leaks no timing information.

    Args:
        store: the store.
        token: the token as the client sent it.
    """
    wanted = sa.select(tokens).where(tokens.c.digest == _digest(token), ~tokens.c.revoked)
    with store.reading() as db:
        row = db.execute(wanted).mappings().first()
    return None if row is None else ApiToken(row["name"], Role(row["role"]), Tier(row["tier"]), row["relay"])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
