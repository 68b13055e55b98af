"""Recipes: the loss of each training method, one function a paper, for `advreg.fit` or a loop of your own.

A recipe is built once with its options, then called on every batch: ``loss = madry()(model, x, y, attack, threat)``. The
caller runs ``backward``, optimizer and schedule. In a forward of clean and attacked inputs, the attacked ones come last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.config.registry import Registry
from advreg.models.split_batchnorm import SplitBatchNorm, merge_batchnorm, split_batchnorm, use_route
from advreg.training.recipes.advprop import advprop, ar_at
from advreg.training.recipes.alp import alp
from advreg.training.recipes.base import Attack, InnerResult, Recipe, bind_ids, worst_case
from advreg.training.recipes.cross_entropy import gaussian, madry, mixed, multiplier, standard
from advreg.training.recipes.distillation import distill
from advreg.training.recipes.free import free, replays_of
from advreg.training.recipes.gradalign import aligned, gradalign
from advreg.training.recipes.interval_bounds import certified_hits, crown_ibp, ibp, mtl_ibp, sabr
from advreg.training.recipes.mart import mart
from advreg.training.recipes.nuat import nuat
from advreg.training.recipes.pgi import pgi
from advreg.training.recipes.robust_distillation import adaad, ard, rslad
from advreg.training.recipes.trades import trades

__all__ = [
    "RECIPES",
    "Attack",
    "InnerResult",
    "Recipe",
    "SplitBatchNorm",
    "adaad",
    "advprop",
    "aligned",
    "alp",
    "ar_at",
    "ard",
    "bind_ids",
    "certified_hits",
    "crown_ibp",
    "distill",
    "free",
    "gaussian",
    "gradalign",
    "ibp",
    "madry",
    "mart",
    "merge_batchnorm",
    "mixed",
    "mtl_ibp",
    "multiplier",
    "nuat",
    "pgi",
    "replays_of",
    "rslad",
    "sabr",
    "split_batchnorm",
    "standard",
    "trades",
    "use_route",
    "worst_case",
]

RECIPES: Registry[Recipe] = Registry(
    "recipe",
    {
        "standard": standard,
        "gaussian": gaussian,
        "madry": madry,
        "mixed": mixed,
        "multiplier": multiplier,
        "trades": trades,
        "mart": mart,
        "alp": alp,
        "ar_at": ar_at,
        "advprop": advprop,
        "free": free,
        "pgi": pgi,
        "nuat": nuat,
        "gradalign": gradalign,
        "distill": distill,
        "ard": ard,
        "rslad": rslad,
        "adaad": adaad,
        "ibp": ibp,
        "crown_ibp": crown_ibp,
        "mtl_ibp": mtl_ibp,
        "sabr": sabr,
    },
)

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"for_examples": "bind_ids", "named": "RECIPES.build", "routed": "use_route"})
