"""Docstrings here say "Example:", as their one example is one; the site's parser knows the plural only."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Turn the heading of each docstring's example into the one that the parser knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring as it is found."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
