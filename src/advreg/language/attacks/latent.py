"""The user's words moved inside the network, in its residual stream: the inner attack of latent adversarial training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import ConfigError, ModelError
from advreg.language.attacks.embedding import check_search
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.targeted import PerturbationAttack, run_targeted
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits, scatter_rows
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import best_iterate, iterates, steepest_descent, with_projection
from advreg.module_modes import eval_mode


def transformer_blocks(lm: LanguageModel) -> list[nn.Module]:
    """Return the network's blocks in order: its longest list of modules.

    Raises:
        ModelError: it holds no list of modules.
    """
    lists = [module for module in lm.network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError(f"{lm.name} has no list of blocks to perturb; give a transformer")
    return list(sorted(lists, key=lambda modules: len(list(modules.children())))[-1])


def default_layers(lm: LanguageModel) -> tuple[int, ...]:
    """Return the blocks a quarter, a half and three quarters of the way up, each once."""
    count = len(transformer_blocks(lm))
    return tuple(sorted({count * k // 4 for k in (1, 2, 3)}))


@contextmanager
def perturb_latents(lm: LanguageModel, encoded: Encoded, delta: Tensor, layers: Sequence[int]) -> Iterator[None]:
    """Add a perturbation to what blocks pass on at the user's words, inside the block of code.

    Only passes over the whole batch's places are changed: the new tokens of an answer are not the user's.

    Args:
        lm: the model.
        encoded: the batch that will be run.
        delta: ``(B, N, P, D)``: row ``j`` of block ``n`` belongs to the j-th of the user's tokens.
        layers: which ``N`` blocks, counted from 0.

    Raises:
        ConfigError: a block that is not there, or another number of them.
    """
    found = transformer_blocks(lm)
    if delta.shape[1] != len(layers) or not all(0 <= layer < len(found) for layer in layers):
        raise ConfigError(
            f"layers are {list(layers)} and delta is for {delta.shape[1]}; allowed: 0 to {len(found) - 1}, one delta each"
        )
    with ExitStack() as hooks:
        for n, layer in enumerate(layers):
            placed = scatter_rows(delta[:, n], encoded.content)
            hooks.callback(found[layer].register_forward_hook(_perturb_output(placed)).remove)
        yield


def _perturb_output(placed: Tensor) -> Any:
    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] != placed.shape[1]:
            return None
        changed = (hidden + placed).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


@torch.no_grad()
def latent_norms(lm: LanguageModel, encoded: Encoded, layers: Sequence[int]) -> Tensor:
    """Return the mean l2 norm of what blocks pass on at each example's own words, ``(B, N)``: one forward each."""
    seen: list[Tensor] = []

    def look(_module: nn.Module, _inputs: object, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        sizes = exact.norm(dim=-1) * encoded.content
        seen.append(sizes.sum(1) / encoded.content.sum(1).clamp(min=1))

    with ExitStack() as hooks, eval_mode(lm.network, freeze=True):
        for layer in layers:
            hooks.callback(transformer_blocks(lm)[layer].register_forward_hook(look).remove)
        logits(lm, encoded, last=1)
    return torch.stack(seen, 1)


def latent_pgd(
    lm: LanguageModel,
    encoded: Encoded,
    *,
    eps: float = 0.1,
    steps: int = 16,
    step_size: float | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the perturbation of the residual stream at the user's words that makes the answers likeliest.

    As `advreg.language.attacks.embedding_pgd`, at several blocks at once; eps is a share of the mean norm that a block passes
    on at the example's own words. It costs ``steps + 2`` forwards and ``steps`` backwards for each example.

    Args:
        lm: the model.
        encoded: prompts with the answers that an attacker wants.
        eps: radius of each token's ball at each block.
        steps: steps from zero.
        step_size: length of a step of one token, in the units of eps; ``2.5 eps / steps`` if None.
        layers: blocks, counted from 0 and in order; a quarter, a half and three quarters of the way up if None.
        seed: not used; every attack takes one.

    Returns:
        ``(B, N, P, D)`` in float32 or better, for `perturb_latents`.

    Raises:
        ConfigError, DataError: budgets that cannot be, no answers, or no word of a user's.

    Reference: Casper et al. 2024; Sheshadri et al. 2024, latent adversarial training.
    """
    check_search(encoded, eps, steps, 1)
    chosen = default_layers(lm) if layers is None else layers
    norms = latent_norms(lm, encoded, chosen)[:, :, None, None]
    step = eps * 2.5 / max(steps, 1) if step_size is None else step_size
    last = answer_span(encoded)

    def loss(delta: Tensor) -> Tensor:
        with perturb_latents(lm, encoded, delta, chosen):
            return answer_nll(logits(lm, encoded, last=last), encoded)

    move = with_projection(steepest_descent(step * norms), eps * norms)
    shape = (len(encoded), len(chosen), int(encoded.content.sum(1).max()), lm.dim)
    start = torch.zeros(shape, dtype=torch.promote_types(lm.dtype, torch.float32), device=lm.device)
    with eval_mode(lm.network, freeze=True):
        return best_iterate(iterates(loss, start, move, steps))[0]


def latent(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    eps: float = 0.1,
    steps: int = 16,
    step_size: float | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 8,
    system: str | None = None,
    judge: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Move the residual stream at the words of each request until its target is likely, and let the model answer.

    Args:
        lm: the model that is searched; a copy in bfloat16 may do.
        requests: requests with targets.
        eps, steps, step_size, layers, seed: as for `latent_pgd`.
        max_new_tokens: length of the longest completion.
        batch_size: requests at a time.
        system: the system's words; what the chat template says by itself if None.
        judge: the original, in float32, whose completions and losses count; ``lm`` itself if None.

    Returns:
        One completion for each request.

    Raises:
        ConfigError, DataError: as for `latent_pgd`, or a request without target.
    """
    original = judge or lm
    chosen = default_layers(lm) if layers is None else layers
    options: dict[str, Any] = {"eps": eps, "steps": steps, "step_size": step_size, "layers": chosen, "seed": seed}

    def search(encoded: Encoded, _ids: Tensor) -> Tensor:
        return latent_pgd(lm, encoded, **options)

    def nll(encoded: Encoded, delta: Tensor) -> Tensor:
        with perturb_latents(original, encoded, delta, chosen):
            return answer_nll(logits(original, encoded, last=answer_span(encoded)), encoded)

    def complete(prompts: list[str], delta: Tensor) -> list[list[str]]:
        encoded = encode(original, prompts, system=system, room=max(original.context // 4, max_new_tokens))
        with perturb_latents(original, encoded, delta, chosen):
            texts = generate(original, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system)
        return [[text] for text in texts]

    attack = PerturbationAttack(search, nll, complete)
    return run_targeted("latent", attack, requests, lm=lm, judge=judge, batch_size=batch_size, system=system)
