"""Attacks on language models: each a function of a model and requests that returns what came back and what it cost."""

from advreg.language.attacks.best_of_n import best_of_n
from advreg.language.attacks.direct import direct
from advreg.language.attacks.embedding import embedding, embedding_pgd
from advreg.language.attacks.gcg import gcg
from advreg.language.attacks.latent import latent, latent_moved, latent_pgd
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.roleplay import roleplay
from advreg.language.attacks.soft_prompt import soft_prompt
from advreg.language.attacks.suffix_scoring import score_suffixes

__all__ = [
    "LanguageAttackResult",
    "best_of_n",
    "direct",
    "embedding",
    "embedding_pgd",
    "gcg",
    "latent",
    "latent_moved",
    "latent_pgd",
    "roleplay",
    "score_suffixes",
    "soft_prompt",
]
