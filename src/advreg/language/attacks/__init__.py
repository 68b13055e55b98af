"""Attacks on language models: functions ``(lm, requests, ...) -> LanguageAttackResult`` with completions and costs."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.language.attacks.best_of_n import best_of_n
from advreg.language.attacks.direct import direct
from advreg.language.attacks.directional_ablation import directional_ablation
from advreg.language.attacks.embedding import embedding, embedding_pgd
from advreg.language.attacks.gcg import gcg
from advreg.language.attacks.injection import Application, injection_adaptive, injection_static
from advreg.language.attacks.latent import latent, latent_pgd, perturb_latents
from advreg.language.attacks.low_precision import search_in_low_precision
from advreg.language.attacks.multi_turn import multi_turn
from advreg.language.attacks.prefill import prefill
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.roleplay import roleplay
from advreg.language.attacks.soft_prompt import soft_prompt
from advreg.language.attacks.tree_search import pair, tap

__all__ = [
    "Application",
    "LanguageAttackResult",
    "best_of_n",
    "direct",
    "directional_ablation",
    "embedding",
    "embedding_pgd",
    "gcg",
    "injection_adaptive",
    "injection_static",
    "latent",
    "latent_pgd",
    "multi_turn",
    "pair",
    "perturb_latents",
    "prefill",
    "roleplay",
    "search_in_low_precision",
    "soft_prompt",
    "tap",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(
        __name__,
        {
            "fast": "search_in_low_precision",
            "latent_moved": "perturb_latents",
            "score_suffixes": "search_in_low_precision",
        },
    )
