"""Options that a verb takes as one object: the fields of a dataclass become options of the command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter, Signature
from typing import Any


def with_groups(*, omit: tuple[str, ...] = (), required: tuple[str, ...] = (), **defaults: Any) -> Callable[..., Any]:
    """Return a decorator that replaces each parameter of a dataclass by an option for each of its fields.

    Args:
        omit: fields that are no option of this verb.
        required: fields that have no default in this verb.
        defaults: defaults of this verb, by field.

    Example:
        >>> from dataclasses import dataclass
        >>> Size = dataclass(type("Size", (), {"__annotations__": {"width": int, "height": int}, "height": 1}))
        >>> def draw(size: Size) -> None:
        ...     print(size.width, size.height)
        >>> verb = with_groups(width=4, omit=("height",))(draw)
        >>> str(inspect.signature(verb))
        '(*, width: int = 4)'
        >>> verb(width=7)
        7 1
    """

    def options_of(parameter: Parameter) -> list[Parameter]:
        """Return the options of a group, or the parameter itself; typer passes all of them by keyword."""
        if not is_dataclass(parameter.annotation):
            return [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
        annotation: Any = parameter.annotation
        group = inspect.signature(annotation, eval_str=True).parameters.values()
        return [
            each.replace(
                kind=Parameter.KEYWORD_ONLY,
                default=Parameter.empty if each.name in required else defaults.get(each.name, each.default),
            )
            for each in group
            if each.name not in omit
        ]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(verb, eval_str=True).parameters
        options = {name: options_of(each) for name, each in parameters.items()}

        @functools.wraps(verb)
        def call(**values: Any) -> None:
            given = defaults | values
            for name, each in parameters.items():
                if is_dataclass(each.annotation):
                    keys = [field.name for field in fields(each.annotation) if field.name in given]
                    group: Any = each.annotation
                    given[name] = group(**{key: given[key] for key in keys})
            verb(**{name: given[name] for name in parameters if name in given})

        every = [option for each in options.values() for option in each]
        vars(call).update(__signature__=Signature(every))
        call.__annotations__ = {option.name: option.annotation for option in every}
        return call

    return decorate
