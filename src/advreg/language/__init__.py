"""Adversarial training and evaluation of language models; the names here are imported when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg.imports import lazy

if TYPE_CHECKING:
    from advreg.language import attacks
    from advreg.language.adapters import adapter_off, adapter_scale, load_adapter, save_adapter, with_lora
    from advreg.language.chat import Encoded, encode
    from advreg.language.classification import Fitting, TextClassifier, fit_classifier, load_classifier
    from advreg.language.config import LanguageConfig
    from advreg.language.data import EvaluationData
    from advreg.language.embeddings import embedding_norm
    from advreg.language.evaluate import LanguageEvaluation
    from advreg.language.judges import Judge, RemoteJudge, fit_judge, keyword_judge, words_judge
    from advreg.language.model import LanguageModel, load
    from advreg.language.requests import Request
    from advreg.language.substitution import substitute
    from advreg.language.training.folder import load_trained
    from advreg.language.training.loop import fit_language

_HOME = {
    "Encoded": "chat:Encoded",
    "EvaluationData": "data:EvaluationData",
    "Fitting": "classification:Fitting",
    "Judge": "judges:Judge",
    "LanguageConfig": "config:LanguageConfig",
    "LanguageEvaluation": "evaluate:LanguageEvaluation",
    "LanguageModel": "model:LanguageModel",
    "RemoteJudge": "judges:RemoteJudge",
    "Request": "requests:Request",
    "TextClassifier": "classification:TextClassifier",
    "adapter_off": "adapters:adapter_off",
    "adapter_scale": "adapters:adapter_scale",
    "attacks": "attacks",
    "embedding_norm": "embeddings:embedding_norm",
    "encode": "chat:encode",
    "fit_classifier": "classification:fit_classifier",
    "fit_judge": "judges:fit_judge",
    "fit_language": "training.loop:fit_language",
    "keyword_judge": "judges:keyword_judge",
    "load": "model:load",
    "load_adapter": "adapters:load_adapter",
    "load_classifier": "classification:load_classifier",
    "load_trained": "training.folder:load_trained",
    "save_adapter": "adapters:save_adapter",
    "substitute": "substitution:substitute",
    "with_lora": "adapters:with_lora",
    "words_judge": "judges:words_judge",
}

__all__ = [
    "Encoded",
    "EvaluationData",
    "Fitting",
    "Judge",
    "LanguageConfig",
    "LanguageEvaluation",
    "LanguageModel",
    "RemoteJudge",
    "Request",
    "TextClassifier",
    "adapter_off",
    "adapter_scale",
    "attacks",
    "embedding_norm",
    "encode",
    "fit_classifier",
    "fit_judge",
    "fit_language",
    "keyword_judge",
    "load",
    "load_adapter",
    "load_classifier",
    "load_trained",
    "save_adapter",
    "substitute",
    "with_lora",
    "words_judge",
]


__getattr__ = lazy(__name__, _HOME)  # but for what shares its module's name: it is its module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
