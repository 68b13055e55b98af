"""Judges of completions: refusals with calibrated error rates, coherence, and ratings by a remote model."""

from advreg.language.judges.calibration import Calibration
from advreg.language.judges.coherence import coherent
from advreg.language.judges.learned import fit_judge, words_judge
from advreg.language.judges.refusal import Judge, keyword_judge
from advreg.language.judges.remote import RemoteJudge

__all__ = ["Calibration", "Judge", "RemoteJudge", "coherent", "fit_judge", "keyword_judge", "words_judge"]
