"""Old home of `advreg.AdversarialRegularization`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg._lazy import deprecated

_NEW = "advreg:AdversarialRegularization"

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"AdversarialRegularization": _NEW, "Regularized": _NEW})
