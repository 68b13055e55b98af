"""The user's words moved inside the network, in its residual stream: the inner attack of latent adversarial training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import ConfigError, ModelError
from advreg.language.attacks.embedding import check
from advreg.language.attacks.result import LanguageAttackResult, batches, passes, with_targets
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_places, logits, scatter_rows
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import best_iterate, iterates, project, steepest_direction
from advreg.module_modes import eval_mode


def blocks(lm: LanguageModel) -> list[nn.Module]:
    """Return the network's blocks in order: its longest list of modules.

    Raises:
        ModelError: it holds no list of modules.
    """
    lists = [module for module in lm.network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError(f"{lm.name} has no list of blocks to perturb; give a transformer")
    return list(sorted(lists, key=lambda modules: len(list(modules.children())))[-1])


def depths(lm: LanguageModel) -> tuple[int, ...]:
    """Return the blocks a quarter, a half and three quarters of the way up, each once."""
    count = len(blocks(lm))
    return tuple(sorted({count * k // 4 for k in (1, 2, 3)}))


@contextmanager
def latent_moved(lm: LanguageModel, encoded: Encoded, delta: Tensor, layers: Sequence[int]) -> Iterator[None]:
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
    found = blocks(lm)
    if delta.shape[1] != len(layers) or not all(0 <= layer < len(found) for layer in layers):
        raise ConfigError(
            f"layers are {list(layers)} and delta is for {delta.shape[1]}; allowed: 0 to {len(found) - 1}, one delta each"
        )
    with ExitStack() as hooks:
        for n, layer in enumerate(layers):
            placed = scatter_rows(delta[:, n], encoded.content)
            hooks.callback(found[layer].register_forward_hook(_adding(placed)).remove)
        yield


def _adding(placed: Tensor) -> Any:
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
            hooks.callback(blocks(lm)[layer].register_forward_hook(look).remove)
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
        ``(B, N, P, D)`` in float32 or better, for `latent_moved`.

    Raises:
        ConfigError, DataError: budgets that cannot be, no answers, or no word of a user's.

    Reference: Casper et al. 2024; Sheshadri et al. 2024, latent adversarial training.
    """
    check(encoded, eps, steps, 1)
    chosen = depths(lm) if layers is None else layers
    norms = latent_norms(lm, encoded, chosen)[:, :, None, None]
    step = eps * 2.5 / max(steps, 1) if step_size is None else step_size
    last = answer_places(encoded)

    def loss(delta: Tensor) -> Tensor:
        with latent_moved(lm, encoded, delta, chosen):
            return answer_nll(logits(lm, encoded, last=last), encoded)

    def move(delta: Tensor, grad: Tensor) -> Tensor:
        return project(delta - step * norms * steepest_direction(grad), eps * norms)

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
    original, chosen = judge or lm, depths(lm) if layers is None else layers
    completions: list[list[str]] = []
    loss: list[float] = []
    with passes(lm, judge) as spent:
        for part in batches(with_targets(requests), batch_size):
            prompts = [request.prompt for request in part]
            encoded = encode(lm, prompts, [request.target for request in part], system=system, ended=False)
            delta = latent_pgd(lm, encoded, eps=eps, steps=steps, step_size=step_size, layers=chosen, seed=seed)
            loss += _judged(original, encoded, delta, chosen)
            asked = encode(original, prompts, system=system, room=max(original.context // 4, max_new_tokens))
            with latent_moved(original, asked, delta, chosen):
                said = generate(original, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system)
            completions += [[text] for text in said]
    return LanguageAttackResult(
        "latent", [request.prompt for request in requests], completions, spent.forwards, spent.backwards, loss
    )


@torch.no_grad()
def _judged(lm: LanguageModel, encoded: Encoded, delta: Tensor, layers: Sequence[int]) -> list[float]:
    with eval_mode(lm.network, freeze=True), latent_moved(lm, encoded, delta, layers):
        scores = logits(lm, encoded, last=answer_places(encoded))
    values: list[float] = answer_nll(scores, encoded).tolist()
    return values
