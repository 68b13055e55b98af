"""The run folder: the artefact that joins training, evaluation, diagnosis and hardening."""

from advreg.runs.folder import RunFolder
from advreg.runs.ledger import Ledger

__all__ = ["Ledger", "RunFolder"]
