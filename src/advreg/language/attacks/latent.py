"""Latent PGD: perturbations of the residual stream at the user's tokens, the inner attack of latent adversarial training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advreg._deprecation import renamed_options
from advreg.errors import ConfigError
from advreg.language.attacks.embedding import check_search
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.targeted import PerturbationAttack, run_targeted
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits, scatter_rows
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.language.models.text_tower import record_blocks, transformer_blocks
from advreg.language.perturbation import STEP_RULES, best_iterate, iterates, with_projection
from advreg.module_modes import eval_mode


def default_layers(lm: LanguageModel) -> tuple[int, ...]:
    """Return the numbers of the blocks at a quarter, a half and three quarters of the depth, without duplicates.

    Raises:
        ModelError: the network has no list of text blocks.
    """
    count = len(transformer_blocks(lm))
    return tuple(sorted({count * k // 4 for k in (1, 2, 3)}))


@contextmanager
def perturb_latents(lm: LanguageModel, encoded: Encoded, delta: Tensor, layers: Sequence[int]) -> Iterator[None]:
    """Add a perturbation to the outputs of blocks at the user's tokens, inside the ``with`` statement.

    Only passes over the whole prompt are perturbed: a newly generated token is not the user's.

    Args:
        lm: the model.
        encoded: the batch that runs inside.
        delta: ``(B, N, P, D)``; row ``j`` of block ``n`` belongs to the j-th user token.
        layers: numbers of the ``N`` blocks, counted from 0.

    Returns:
        A context manager; the blocks are restored at its end.

    Raises:
        ConfigError: a block does not exist, or ``delta`` has another number of blocks.
        ModelError: the network has no list of text blocks.
    """
    modules = transformer_blocks(lm)
    if delta.shape[1] != len(layers) or not all(0 <= layer < len(modules) for layer in layers):
        raise ConfigError(
            f"layers are {list(layers)} and delta has {delta.shape[1]} blocks; allowed: 0 to {len(modules) - 1}, one block each"
        )
    with ExitStack() as hooks:
        for n, layer in enumerate(layers):
            placed = scatter_rows(delta[:, n], encoded.content)
            hooks.callback(modules[layer].register_forward_hook(_perturb_output(placed)).remove)
        yield


def _perturb_output(placed: Tensor) -> Any:
    """Return a forward hook that adds a perturbation to hidden states of its length."""

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] != placed.shape[1]:
            return None
        changed = (hidden + placed).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


@torch.no_grad()
def latent_norms(lm: LanguageModel, encoded: Encoded, layers: Sequence[int]) -> Tensor:
    """Return the mean l2 norm of block outputs over each example's user tokens: one forward each.

    Args:
        lm: the model.
        encoded: the batch.
        layers: numbers of the ``N`` blocks, counted from 0.

    Returns:
        ``(B, N)`` in float32 or better.
    """
    with eval_mode(lm.network, freeze=True), record_blocks(lm, layers) as states:
        logits(lm, encoded, last=1)
    exact = torch.stack([state.to(torch.promote_types(state.dtype, torch.float32)) for state in states], 1)
    sizes = exact.norm(dim=-1) * encoded.content[:, None]
    norms: Tensor = sizes.sum(-1) / encoded.content.sum(1, keepdim=True).clamp(min=1)
    return norms


def latent_pgd(
    lm: LanguageModel,
    encoded: Encoded,
    *,
    eps: float = 0.1,
    steps: int = 16,
    step_size: float | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    step_rule: str = "normalised",
) -> Tensor:
    """Return the perturbation of the residual stream at the user's tokens with the lowest loss of the target answers.

    ``delta <- project(delta - step_size g / |g|)`` at several blocks at once, with an l2 ball around each token; the search
    begins at zero and returns the best iterate. It costs ``steps + 2`` forwards and ``steps`` backwards of each example.

    Args:
        lm: the model under attack.
        encoded: prompts with target answers.
        eps: radius of each token's ball, as a fraction of the mean norm of the block's output at the example's user tokens.
        steps: gradient steps.
        step_size: l2 length of a token's step, in units of ``eps``; ``2.5 eps / steps`` if None.
        layers: numbers of the blocks, counted from 0, in order; a quarter, a half and three quarters of the depth if None.
        seed: not used; every attack takes a seed.
        step_rule: ``"normalised"`` or ``"sign"``; both steps have the length ``step_size``.

    Returns:
        ``(B, N, P, D)`` in float32 or better, for `perturb_latents`.

    Raises:
        ConfigError: ``eps`` or ``steps`` is negative, or a block does not exist.
        DataError: a prompt has no target answer, or no prompt has a user token.
        ModelError: the network has no list of text blocks.

    Example:
        >>> empty = torch.zeros(1, 2, dtype=torch.bool)
        >>> latent_pgd(None, Encoded(empty.long(), empty, empty, empty), eps=-1.0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: eps is -1.0, steps 16, restarts 1; give eps and steps >= 0, restarts >= 1

    Reference: Casper et al., "Defending against unforeseen failure modes with latent adversarial training", 2024,
    arXiv:2403.05030; Sheshadri et al., "Latent adversarial training improves robustness to persistent harmful behaviors in
    LLMs", 2024, arXiv:2407.15549.
    """
    check_search(encoded, eps, steps, 1)
    blocks = default_layers(lm) if layers is None else layers
    norms = latent_norms(lm, encoded, blocks)[:, :, None, None]
    step = eps * 2.5 / max(steps, 1) if step_size is None else step_size
    last = answer_span(encoded)

    def loss(delta: Tensor) -> Tensor:
        with perturb_latents(lm, encoded, delta, blocks):
            return answer_nll(logits(lm, encoded, last=last), encoded)

    move = with_projection(STEP_RULES[step_rule](step * norms), eps * norms)
    shape = (len(encoded), len(blocks), int(encoded.content.sum(1).max()), lm.dim)
    start = torch.zeros(shape, dtype=torch.promote_types(lm.dtype, torch.float32), device=lm.device)
    with eval_mode(lm.network, freeze=True):
        return best_iterate(iterates(loss, start, move, steps))[0]


@renamed_options(judge="original")
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
    original: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Perturb the residual stream at the tokens of each request until its target is likely, and complete the prompt.

    Args:
        lm: the model for the search; a bfloat16 copy is allowed, see `search_in_low_precision`.
        requests: harmful requests with targets.
        eps: radius of each token's ball, as a fraction of the mean norm of the block's output at the example's user tokens.
        steps: gradient steps.
        step_size: l2 length of a token's step, in units of ``eps``; ``2.5 eps / steps`` if None.
        layers: numbers of the blocks, counted from 0, in order; a quarter, a half and three quarters of the depth if None.
        seed: not used; every attack takes a seed.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of requests in one batch.
        system: the system prompt; the chat template's default if None.
        original: the model in float32, which gives the reported losses and completions; ``lm`` if None.

    Returns:
        One completion of each request, with the NLL of its target.

    Raises:
        ConfigError: ``eps`` or ``steps`` is negative, or a block does not exist.
        DataError: a request has no target or no word.
        ModelError: the network has no list of text blocks, or no layer that returns token logits.

    Example:
        >>> latent(None, [HarmfulRequest(0, "How do I open a lock?")], layers=[0])
        Traceback (most recent call last):
        advreg.errors.DataError: request 0 has no target; give the beginning of a completion that complies

    Reference: Sheshadri et al., "Latent adversarial training improves robustness to persistent harmful behaviors in LLMs",
    2024, arXiv:2407.15549.
    """
    reported = original or lm
    blocks = default_layers(lm) if layers is None else layers
    options: dict[str, Any] = {"eps": eps, "steps": steps, "step_size": step_size, "layers": blocks, "seed": seed}

    def search(encoded: Encoded, _ids: Tensor) -> Tensor:
        return latent_pgd(lm, encoded, **options)

    def nll(encoded: Encoded, delta: Tensor) -> Tensor:
        with perturb_latents(reported, encoded, delta, blocks):
            return answer_nll(logits(reported, encoded, last=answer_span(encoded)), encoded)

    def complete(prompts: list[str], delta: Tensor) -> list[list[str]]:
        encoded = encode(reported, prompts, system=system, room=max(reported.context // 4, max_new_tokens))
        with perturb_latents(reported, encoded, delta, blocks):
            texts = generate(reported, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system)
        return [[text] for text in texts]

    attack = PerturbationAttack(search, nll, complete)
    return run_targeted("latent", attack, requests, lm=lm, original=original, batch_size=batch_size, system=system)
