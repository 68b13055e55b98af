"""Networks by name, their weights, and the fast frozen copies that attacks work on."""

from advreg.models.answers import answers_logits, logits_of
from advreg.models.catalogue import load
from advreg.models.checks import check_model
from advreg.models.frozen import Target, freeze
from advreg.models.normalize import Normalize
from advreg.models.remote import Answering
from advreg.models.weights import describe, read_state, state_sha256

__all__ = [
    "Answering",
    "Normalize",
    "Target",
    "answers_logits",
    "check_model",
    "describe",
    "freeze",
    "load",
    "logits_of",
    "read_state",
    "state_sha256",
]
