"""Anchors: heads of the audit log outside the database, so that its owner cannot forge the chain unseen.

`PATH` is a file that grows by one line an anchor, `git:FOLDER` a repository that gets a tag an anchor, and `rfc3161:FOLDER` a
folder that gets a request for a time-stamping service (RFC 3161), which any such service signs; nothing is sent from here.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from advreg.errors import StoreError
from advreg.hardening.store.audit import head_of
from advreg.hardening.store.replay import Broken
from advreg.hardening.store.tables import audit
from advreg.runs.files import append_lines, read_lines

Head = tuple[int, str]
"""Number of entries and digest of the newest one."""

_SHA256 = bytes.fromhex("300d06096086480165030402010500")  # AlgorithmIdentifier of SHA-256
_TAG = re.compile(r"advreg-audit-(\d+)-([0-9a-f]{64})")


def check_anchors(db: sa.Connection, target: str) -> Broken | None:
    """Verify that every head anchored at a target is in the log.

    Args:
        db: an open transaction.
        target: ``PATH``, ``git:FOLDER`` or ``rfc3161:FOLDER``.

    Returns:
        The first anchored head that the log does not hold, or None.
    """
    for seq, digest in sorted(anchored_heads(target)):
        found = db.execute(sa.select(audit.c.digest).where(audit.c.seq == seq)).scalar()
        if found != digest and (seq, digest) != (0, "0" * 64):
            return Broken(
                seq, f"entry {seq} is anchored at {target} with digest {digest[:12]}, the log has {found!r:.15}"
            )
    return None


def anchor_head(db: sa.Connection, target: str) -> Head:
    """Anchor the newest head of the log; one that is anchored already is left alone.

    Args:
        db: an open transaction.
        target: ``PATH``, ``git:FOLDER`` or ``rfc3161:FOLDER``.

    Returns:
        The head.

    Raises:
        StoreError: the target cannot be written.
    """
    head = head_of(db)
    if head in anchored_heads(target):
        return head
    scheme, _, rest = target.rpartition(":")
    name = f"advreg-audit-{head[0]}-{head[1]}"
    if scheme == "git":
        _git(rest, "tag", "-a", name, "-m", f"Audit log of advreg harden: {head[0]} entries, head {head[1]}")
    elif scheme == "rfc3161":
        _make_folder(rest)
        Path(rest, f"{name}.tsq").write_bytes(timestamp_request(head[1]))
    else:
        append_lines(Path(target), [{"seq": head[0], "digest": head[1]}])
    return head


def anchored_heads(target: str) -> set[Head]:
    """Return the heads anchored at a target; none where there is nothing yet.

    Args:
        target: ``PATH``, ``git:FOLDER`` or ``rfc3161:FOLDER``.

    Raises:
        StoreError: the target cannot be read.
    """
    scheme, _, rest = target.rpartition(":")
    if scheme == "git":
        return set(_parse_names(_git(rest, "tag", "--list", "advreg-audit-*").split()))
    if scheme == "rfc3161":
        return set(_parse_names([file.stem for file in Path(rest).glob("advreg-audit-*.tsq")]))
    try:
        return {(int(line["seq"]), str(line["digest"])) for line in read_lines(Path(target))}
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{target} is no file of anchors ({error}); give another path") from error


def timestamp_request(digest: str) -> bytes:
    """Return a TimeStampReq of RFC 3161 for a SHA-256, in DER.

    The digest of an entry is the SHA-256 of the chain up to it, so a service's signature dates the whole log. Send it with
    ``curl -H 'Content-Type: application/timestamp-query' --data-binary @FILE URL`` and keep the answer beside it.

    Args:
        digest: hexadecimal.

    Example:
        >>> len(timestamp_request("00" * 32)) in range(65, 80)
        True
    """
    imprint = _der(0x30, _SHA256 + _der(0x04, bytes.fromhex(digest)))
    nonce = _der(0x02, b"\x01" + secrets.token_bytes(8))
    return _der(0x30, _der(0x02, b"\x01") + imprint + nonce + _der(0x01, b"\xff"))  # version 1; with the certificate


def _der(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content  # all parts are shorter than 128 bytes


def _parse_names(names: list[str]) -> Iterator[Head]:
    for name in names:
        if found := _TAG.fullmatch(name):
            yield int(found[1]), found[2]


def _make_folder(path: str) -> None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot anchor at {path}: {error.strerror}; give another folder") from error


def _git(folder: str, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().split("\n")[-1]
        raise StoreError(f"git cannot anchor in {folder}: {reason}; give git:FOLDER of a repository") from error
    return done.stdout
