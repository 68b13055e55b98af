"""Judges of completions: refusals with calibrated error rates, coherence, harm, and ratings by a service."""

from advreg._lazy import deprecated
from advreg.language.judges.calibration import Calibration
from advreg.language.judges.coherence import coherent
from advreg.language.judges.harm import HarmJudge, remote_harm_judge
from advreg.language.judges.learned import words_judge
from advreg.language.judges.refusal import Judge, keyword_judge
from advreg.language.judges.remote import RemoteJudge

__all__ = [
    "Calibration", "HarmJudge", "Judge", "RemoteJudge", "coherent", "keyword_judge", "remote_harm_judge", "words_judge"
]  # fmt: skip

__getattr__ = deprecated(__name__, {"fit_judge": "words_judge"})
