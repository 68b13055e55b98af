"""Attacks on texts as the command line names them: ``name`` or ``name:key=value,...``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advreg.config import toml
from advreg.errors import ConfigError, did_you_mean

Attack = Callable[..., Any]

_SHARED = ("seed", "max_new_tokens")
"""Options that the verb gives to every attack."""
_SERVICE = {"url": "", "model": "", "key": ""}
"""Options of attacks with an attacking model behind a URL; ``key`` names the environment variable that holds its key."""


def parse_attacks(texts: Sequence[str], known: Mapping[str, Attack]) -> dict[str, Attack]:
    """Parse attacks, each ``name`` or ``name:key=value,...``.

    Args:
        texts: names of attacks, with their options.
        known: the attacks by name.

    Returns:
        Name -> attack with its options bound.

    Raises:
        ConfigError: an unknown name or option, or a value of another type than the default.

    Example:
        >>> def nudge(text: str, *, n: int = 1, kind: str = "typo") -> None: ...
        >>> parse_attacks(["nudge:n=3,kind=case"], {"nudge": nudge})["nudge"].keywords
        {'n': 3, 'kind': 'case'}
    """
    return dict(_parse_attack(text, known) for text in texts)


def _parse_attack(text: str, known: Mapping[str, Attack]) -> tuple[str, Attack]:
    name, _, given = text.partition(":")
    if name not in known:
        raise ConfigError(f"there is no attack {name!r}; allowed: {', '.join(known)}.{did_you_mean(name, list(known))}")
    parameters = inspect.signature(known[name]).parameters.values()
    defaults = {p.name: p.default for p in parameters if isinstance(p.default, int | float | str)}
    takes_service = any(p.name == "attacker" for p in parameters)
    options = dict(
        _parse_option(defaults | (_SERVICE if takes_service else {}), name, part) for part in given.split(",") if part
    )
    service = {key: options.pop(key) for key in _SERVICE if key in options}
    if service:
        options["attacker"] = _connect(name, **service)
    return name, functools.partial(known[name], **options) if options else known[name]


def _connect(name: str, url: str = "", model: str = "", key: str = "") -> Attack:
    """Return the function that queries the attacking model behind a URL."""
    from advreg.language.chat_service import ChatService

    if not url or not model:
        raise ConfigError(f"{name} needs both url=http://host/v1 and model=NAME of its attacking model")
    return ChatService(url, model, key or None, temperature=1.0).complete


def _parse_option(defaults: Mapping[str, Any], name: str, part: str) -> tuple[str, Any]:
    key, separator, text = part.partition("=")
    allowed = [key for key in defaults if key not in _SHARED]
    if not separator or key not in allowed:
        raise ConfigError(f"{name} has no option {part!r}; write key=value with one of {', '.join(allowed)}")
    default = defaults[key]
    if isinstance(default, str):
        return key, text
    value = toml.value(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and not isinstance(default, bool)
    fits = type(value) is type(default) or (is_number and isinstance(default, float))
    if not fits:
        kind = "true or false" if isinstance(default, bool) else f"a number such as {default}"
        raise ConfigError(f"{name}:{key} is {text!r}; give {kind}")
    return key, value
