"""Adversarial training and evaluation of language models.

The public names are listed once, in ``__init__.pyi``; each is imported when it is first used.
"""

from advreg._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__, __file__, {"Fitting": "ClassifierTraining", "Request": "HarmfulRequest"}
)
