"""Validation of uploaded texts (UTF-8, no control characters, bounded size) and their safe display."""

from __future__ import annotations

import unicodedata

from advreg.errors import UploadError

_ALLOWED = "\t\n\r"


def decode_text(content: bytes, limit: int) -> str:
    """Return the text of an upload.

    Args:
        content: the uploaded bytes; the client's content type is ignored.
        limit: largest number of bytes.

    Raises:
        UploadError: the upload is too long, not UTF-8 or empty, or holds control characters.

    Example:
        >>> decode_text("na\\u00efve".encode(), 100)
        'na\\xefve'
    """
    if len(content) > limit:
        raise UploadError(f"the text has {len(content)} bytes; allowed: {limit}", status=413)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UploadError(f"the upload is not UTF-8 (byte {error.start}); send text/plain in UTF-8", 415) from None
    control = next((char for char in text if unicodedata.category(char) == "Cc" and char not in _ALLOWED), None)
    if control is not None:
        raise UploadError(f"the text holds the control character U+{ord(control):04X}; send plain text", 415)
    if not fold_text(text):
        raise UploadError("the text is empty; send a prompt")
    return text


def fold_text(text: str) -> str:
    """Return the form that near-duplicates share: NFKC, casefolded, no invisible characters, single spaces.

    Args:
        text: any text.

    Example:
        >>> fold_text("  How\\u200b TO\\n\\uff42ake ")
        'how to bake'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    visible_ = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible_).split())


def show_invisible(text: str) -> str:
    """Return a text with its invisible characters as ``[U+200B]``: a reviewer must see the model's whole input.

    Args:
        text: any text.

    Example:
        >>> show_invisible("a\\u202eb")
        'a[U+202E]b'
    """
    return "".join(
        f"[U+{ord(char):04X}]" if unicodedata.category(char) in ("Cf", "Co", "Cn") else char for char in text
    )
