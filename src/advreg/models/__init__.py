"""Networks by name, their weights, and the fast frozen copies that attacks work on."""

from advreg.models.fast_copy import Target, freeze
from advreg.models.inference_only import Answering, among
from advreg.models.loading import load
from advreg.models.logits import answers_logits, logits_of
from advreg.models.normalize import Normalize, normalized
from advreg.models.validation import check_model
from advreg.models.weights import describe, read_state, state_sha256

__all__ = [
    "Answering",
    "Normalize",
    "Target",
    "among",
    "answers_logits",
    "check_model",
    "describe",
    "freeze",
    "load",
    "logits_of",
    "normalized",
    "read_state",
    "state_sha256",
]
