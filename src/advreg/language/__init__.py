"""Adversarial training and evaluation of language models.

``__init__.pyi`` lists the public names; each is imported at its first use.
"""

from advreg._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__, __file__, {"Fitting": "ClassifierTraining", "Request": "HarmfulRequest", "fit_judge": "words_judge"}
)
