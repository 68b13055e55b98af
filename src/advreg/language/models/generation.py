"""Generation in batches padded on the left, by transformers: the likeliest tokens, or tokens drawn for each example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.example_rng import uniform
from advreg.language.models.chat import Encoded, Message, encode, end_of_turn, pad_id
from advreg.language.models.embeddings import perturb_embeddings, replace_embeddings, scatter_rows
from advreg.language.models.endpoint import ServiceModel
from advreg.language.models.gguf import EXTRA
from advreg.language.models.language_model import LanguageModel
from advreg.module_modes import eval_mode
from advreg.plugins import import_extra

_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}
"""Options that a model's generation_config could set otherwise."""

Pick = Callable[[Tensor, int], Tensor]
"""From the logits ``(B, V)`` of the next token and its number to the chosen tokens ``(B,)``."""


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    delta: Tensor | None = None,
    suffix: Tensor | None = None,
    system: str | None = None,
    history: Sequence[Sequence[Message]] | None = None,
    openings: Sequence[str] | None = None,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Complete prompts with the likeliest tokens, or with tokens drawn at a temperature.

    Args:
        lm: the model; it runs in eval mode and without gradients.
        prompts: text of the user's last turn, one conversation each.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of prompts in one batch.
        delta: ``(B, P, D)``, added to the embeddings of each prompt's user tokens.
        suffix: embeddings ``(S, D)`` or ``(B, S, D)`` that follow the user's tokens.
        system: the system prompt; that of the model if None.
        history: earlier turns of each conversation; none if None.
        openings: first words of the assistant for each prompt, which the model continues; none if None.
        temperature: temperature of the draws; 0 takes the likeliest tokens.
        seeds: one seed for each prompt; its draws do not depend on the batch. 0, 1, ... if None.

    Returns:
        The completions, without special tokens and without the openings; a completion can be empty.

    Raises:
        ConfigError: a number is out of range, or the chat template is missing or fails.
        ModelError: the model is a service, and it fails or the options need weights.
        DataError: ``suffix`` is given and a prompt is empty, or an opening is empty.

    Example:
        >>> generate(None, [], max_new_tokens=0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: max_new_tokens is 0, batch_size 16, temperature 0.0; give at least 1, 1 and 0
    """
    if max_new_tokens < 1 or batch_size < 1 or not 0 <= temperature < float("inf"):
        given = f"max_new_tokens is {max_new_tokens}, batch_size {batch_size}, temperature {temperature}"
        raise ConfigError(f"{given}; give at least 1, 1 and 0")
    if isinstance(lm, ServiceModel) and delta is None and suffix is None and openings is None:
        return lm.complete(
            prompts, max_new_tokens=max_new_tokens, system=system, history=history, temperature=temperature
        )
    soft = None if suffix is None else suffix.expand(len(prompts), *suffix.shape[-2:])
    room = max(lm.context // 4, max_new_tokens + (0 if soft is None else soft.shape[1])) if prompts else 0
    draws = range(len(prompts)) if seeds is None else seeds
    completions: list[str] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        encoded = encode(
            lm,
            prompts[part],
            None if openings is None else openings[part],
            system=system,
            ended=False,
            room=room,
            history=None if history is None else history[part],
        )
        points, mask = prepare_inputs(
            lm, encoded, None if delta is None else delta[part], None if soft is None else soft[part]
        )
        pick = pick_at(temperature, draws[part]) if temperature else _pick_likeliest
        completions += decode_completions(lm, continue_prompt(lm, points, mask, max_new_tokens, pick))
    return completions


def _pick_likeliest(logits: Tensor, _number: int) -> Tensor:
    """Return the likeliest token of each example."""
    return logits.argmax(-1)


def pick_at(temperature: float, seeds: Sequence[int]) -> Pick:
    """Return a choice of tokens with probability ``softmax(logits / temperature)``, by the Gumbel-max trick.

    Args:
        temperature: above 0.
        seeds: one seed for each example; a draw depends on it and on the number of the token.

    Example:
        >>> logits = torch.zeros(2, 5)
        >>> pick, alone = pick_at(1.0, [3, 8]), pick_at(1.0, [8])
        >>> bool(pick(logits, 0)[1] == alone(logits[:1], 0)[0])
        True
    """
    ids = torch.tensor(list(seeds))

    def pick(logits: Tensor, number: int) -> Tensor:
        noise = uniform(ids, (logits.shape[-1],), 0, number, torch.float64).clamp_min(2.0**-25)
        gumbel = -(-noise.log()).log()
        return (logits.double() / temperature + gumbel.to(logits.device)).argmax(-1)

    return pick


def prepare_inputs(
    lm: LanguageModel, encoded: Encoded, delta: Tensor | None, suffix: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return embeddings and mask of a batch with a perturbation added and a soft suffix inserted.

    Args:
        lm: the model.
        encoded: the batch.
        delta: ``(B, P, D)``, added to the user's tokens, or None.
        suffix: embeddings ``(B, S, D)`` after the user's tokens, or None.

    Returns:
        Embeddings ``(B, T, D)`` and mask ``(B, T)``.

    Raises:
        DataError: ``suffix`` is given and a prompt is empty.

    Example:
        >>> empty = torch.zeros(1, 2, dtype=torch.bool)
        >>> prepare_inputs(None, Encoded(empty.long(), empty, empty, empty), None, torch.zeros(1, 3, 4))
        Traceback (most recent call last):
        advreg.errors.DataError: a prompt is empty, so it takes no suffix; give at least one word
    """
    if suffix is None:
        return perturb_embeddings(lm, encoded, delta), encoded.mask
    longer, slots = open_suffix_slots(encoded, suffix.shape[1])
    points = perturb_embeddings(lm, longer, delta)
    return torch.where(slots[..., None], scatter_rows(suffix, slots).to(points.dtype), points), longer.mask


def open_suffix_slots(encoded: Encoded, count: int) -> tuple[Encoded, Tensor]:
    """Insert places for a suffix after each prompt's user tokens.

    Args:
        encoded: the batch.
        count: number of places.

    Returns:
        The longer batch, with arbitrary tokens at the new places, and a mask of these ``(B, T + count)``.

    Raises:
        DataError: a prompt has no user token.
    """
    if not bool(encoded.content.any(1).all()):
        raise DataError("a prompt is empty, so it takes no suffix; give at least one word")
    length = encoded.ids.shape[1]
    column = torch.arange(length + count, device=encoded.ids.device).expand(len(encoded), -1)
    at = (torch.arange(length, device=encoded.ids.device) * encoded.content).amax(1, keepdim=True) + 1
    slots = (column >= at) & (column < at + count)
    source = torch.where(column < at, column, (column - count).clamp(min=0))
    ids, mask, content, answer = (
        part.gather(1, source) for part in (encoded.ids, encoded.mask, encoded.content, encoded.answer)
    )
    return Encoded(ids, mask | slots, content & ~slots, answer & ~slots), slots


@torch.no_grad()
def continue_prompt(
    lm: LanguageModel, points: Tensor, mask: Tensor, max_new_tokens: int, pick: Pick = _pick_likeliest
) -> Tensor:
    """Return the tokens after a prompt, by ``generate`` of transformers, with padding after each end.

    The model's own defaults, such as sampling, beams or a penalty of repetitions, are not used.

    Args:
        lm: the model; it runs in eval mode and without gradients.
        points: embeddings of the prompt ``(B, T, D)``.
        mask: ``(B, T)``, True on tokens and False on padding.
        max_new_tokens: upper limit of ``N``.
        pick: chooses each token by its logits; the likeliest by default.

    Returns:
        Token ids ``(B, N)``.
    """

    length = mask.shape[1]

    def choose(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = pick(scores, ids.shape[1] - length)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    transformers = import_extra("transformers", EXTRA)
    config = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids(lm)),
        pad_token_id=pad_id(lm),
        **_GREEDY,
    )
    processors = transformers.LogitsProcessorList([] if pick is _pick_likeliest else [choose])
    ids = torch.full(mask.shape, pad_id(lm), device=mask.device)
    with eval_mode(lm.network, freeze=True), replace_embeddings(lm, points):
        tokens: Tensor = lm.network.generate(
            ids, attention_mask=mask.long(), generation_config=config, logits_processor=processors
        )
    return tokens[:, length:]


def stop_ids(lm: LanguageModel) -> set[int]:
    """Return the ids that end a completion: the template's end of turn and the end tokens of model and tokenizer."""
    turn = lm.tokenizer(end_of_turn(lm), add_special_tokens=False)["input_ids"] if lm.tokenizer.chat_template else []
    configured = getattr(getattr(lm.network, "generation_config", None), "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*turn[:1], *ends, lm.tokenizer.eos_token_id] if token is not None}


def decode_completions(lm: LanguageModel, tokens: Tensor) -> list[str]:
    """Return completions ``(B, N)`` as text, each up to its first end token, without blanks around it."""
    stops = stop_ids(lm)
    rows = [list(takewhile(lambda token: token not in stops, row)) for row in tokens.tolist()]
    texts: list[str] = lm.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]
