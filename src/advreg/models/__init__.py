"""Networks by name, their weights, and the fast frozen copies that attacks work on."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.models.fast_copy import FastCopy, freeze
from advreg.models.inference_only import InferenceOnlyModel, among
from advreg.models.loading import load, load_with
from advreg.models.logits import extract_logits, one_logit, wrap_logits
from advreg.models.normalize import Normalize, normalized
from advreg.models.validation import check_model
from advreg.models.weights import describe, read_state, state_sha256

__all__ = [
    "FastCopy",
    "InferenceOnlyModel",
    "Normalize",
    "among",
    "check_model",
    "describe",
    "extract_logits",
    "freeze",
    "load",
    "load_with",
    "normalized",
    "one_logit",
    "read_state",
    "state_sha256",
    "wrap_logits",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(
        __name__,
        {
            "Answering": "InferenceOnlyModel",
            "Target": "FastCopy",
            "answers_logits": "wrap_logits",
            "logits_of": "extract_logits",
        },
    )
