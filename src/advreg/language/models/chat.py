"""Chat templates: conversations as token batches, with masks of the user's tokens and of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.language.models.language_model import LanguageModel
from advreg.plugins import first_line

_USER, _ASSISTANT = "advreg-user-words", "advreg-assistant-words"
"""Placeholders of the user's and the assistant's text, to find the template's text around them."""


@dataclass(frozen=True)
class Encoded:
    """A batch of conversations, padded on the left.

    Attributes:
        ids: token ids ``(B, T)``.
        mask: ``(B, T)``, True on tokens and False on padding.
        content: ``(B, T)``, True on the user's tokens, never on those of the template or the system prompt.
        answer: ``(B, T)``, True on the answer with its end-of-turn token.
    """

    ids: Tensor
    mask: Tensor
    content: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor | slice) -> Encoded:
        """Return some rows, without the columns that are padding in all of them.

        Args:
            rows: indices, a mask ``(B,)`` or a slice.
        """
        mask = self.mask[rows]
        first = int(mask.any(0).int().argmax())
        return Encoded(*(part[rows][:, first:] for part in (self.ids, self.mask, self.content, self.answer)))

    def to(self, device: torch.device | str) -> Encoded:
        """Return the batch on another device."""
        return Encoded(*(part.to(device) for part in (self.ids, self.mask, self.content, self.answer)))


Message = Mapping[str, str]
"""A turn of a conversation: its ``role`` and its ``content``."""

Row = tuple[list[int], list[bool]]
"""Token ids of one prompt, and whether each is a token of the user."""


def encode(
    lm: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    system: str | None = None,
    ended: bool = True,
    room: int | None = None,
    history: Sequence[Sequence[Message]] | None = None,
) -> Encoded:
    """Tokenize conversations in the model's chat template.

    Prompt and answer are tokenized separately, as in generation, so the tokens of a prompt do not depend on the answer. A
    prompt that is too long loses the end of the user's text, whatever the answer; then the answer loses its end.

    Args:
        lm: the model, for its tokenizer and its context length.
        prompts: text of the user's last turn, one conversation each.
        answers: text of the assistant; the tokens end at the beginning of the assistant's turn if None.
        system: the system prompt; that of the model if None.
        ended: whether the answers are complete, with an end-of-turn token; False for openers.
        room: tokens reserved for the answer; a quarter of the context if None.
        history: earlier turns of each conversation, after the system prompt; none if None.

    Returns:
        An `Encoded` batch on the model's device.

    Raises:
        ConfigError: the model has no chat template, or its template fails or leaves no room for the user's text.
        DataError: there are no prompts, the numbers of prompts and answers differ, or an answer is empty.

    Example:
        >>> encode(None, [])
        Traceback (most recent call last):
        advreg.errors.DataError: there are 0 prompts and no answers; give at least one prompt, and one answer for each or none

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024,
    arXiv:2405.15589, perturb the user's tokens only.
    """
    if not prompts or (answers is not None and len(answers) != len(prompts)):
        given = "no" if answers is None else str(len(answers))
        raise DataError(
            f"there are {len(prompts)} prompts and {given} answers; give at least one prompt, and one answer for each or none"
        )
    free = lm.context // 4 if room is None else room
    tokens = _tokenize_prompts(lm, prompts, system, history or [()] * len(prompts))
    rows = [_truncate_user_tokens(lm, row, lm.context - free) for row in tokens]
    if answers is None:
        return _pad_left(lm, rows, [[] for _ in rows])
    end = end_of_turn(lm, system) if ended else ""
    replies = [
        _tokenize_text(lm, answer + end)[: lm.context - len(row[0])] for answer, row in zip(answers, rows, strict=True)
    ]
    if not all(replies):
        raise DataError(f"answer {[bool(reply) for reply in replies].index(False)} is empty; give at least one word")
    return _pad_left(lm, rows, replies)


def prompt_lengths(lm: LanguageModel, prompts: Sequence[str], system: str | None = None) -> list[int]:
    """Return the number of tokens of each prompt in the chat template, before any truncation.

    Args:
        lm: the model, for its tokenizer.
        prompts: text of the user, one conversation each.
        system: the system prompt; the chat template's default if None.

    Raises:
        ConfigError: the model has no chat template, or its template fails.
    """
    return [len(ids) for ids, _ in _tokenize_prompts(lm, prompts, system, [()] * len(prompts))]


def end_of_turn(lm: LanguageModel, system: str | None = None) -> str:
    """Return the text that ends an answer: the template's text after it, or the tokenizer's end-of-sequence token.

    Args:
        lm: the model, for its tokenizer.
        system: the system prompt; that of the model if None.

    Raises:
        ConfigError: the model has no chat template, or its template fails.
    """
    turns = [*_turns(lm, _USER, system), {"role": "assistant", "content": _ASSISTANT}]
    _, _, after = _render(lm, turns, False).partition(_ASSISTANT)
    return after.strip() or lm.tokenizer.eos_token or ""


def _turns(lm: LanguageModel, prompt: str, system: str | None, history: Sequence[Message] = ()) -> list[Message]:
    """Return a conversation in the form that chat templates take."""
    own = bool(history) and history[0]["role"] == "system"  # that of a training example comes before that of the model
    system = lm.system if system is None and not own else system
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *history, {"role": "user", "content": prompt}]


def _render(lm: LanguageModel, turns: Sequence[Message], generation: bool) -> str:
    """Return a conversation as text, with the beginning of the assistant's turn if ``generation``."""
    if not lm.tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {lm.name} has no chat template; use a model tuned to chat, or set tokenizer.chat_template"
        )
    try:
        text: str = lm.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=generation)
    except Exception as cause:  # templates raise errors of any kind, such as for an unsupported role
        roles = ", ".join(turn["role"] for turn in turns)
        raise ConfigError(
            f"the chat template of {lm.name} fails for {roles}: {first_line(cause)}; use another model or roles"
        ) from cause
    return text


def _tokenize_prompts(
    lm: LanguageModel, prompts: Sequence[str], system: str | None, history: Sequence[Sequence[Message]]
) -> list[Row]:
    """Return each conversation as tokens; the user's last text is at the place of the placeholder."""
    texts = [_render(lm, _turns(lm, prompt, system, past), True) for prompt, past in zip(prompts, history, strict=True)]
    frames = {str(past): _render(lm, _turns(lm, _USER, system, past), True).partition(_USER) for past in history}
    around = [frames[str(past)] for past in history]
    if not all(
        marker and text.startswith(before) and text.endswith(after)
        for text, (before, marker, after) in zip(texts, around, strict=True)
    ):
        raise ConfigError(f"the chat template of {lm.name} changes the user's text; use another template")
    if not lm.tokenizer.is_fast:
        raise ConfigError(f"the tokenizer of {lm.name} gives no token offsets; use a fast tokenizer")
    batch = lm.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = [(len(before), len(text) - len(after)) for text, (before, _, after) in zip(texts, around, strict=True)]
    return [
        (ids, [_is_user_token(text, piece, span) for piece in pieces])
        for text, ids, pieces, span in zip(texts, batch["input_ids"], batch["offset_mapping"], spans, strict=True)
    ]


def _is_user_token(text: str, piece: tuple[int, int], span: tuple[int, int]) -> bool:
    """Return whether a token is the user's; blanks of the template inside the token are ignored.

    Example:
        >>> _is_user_token("[INST] Hello", (6, 12), (7, 12)), _is_user_token("[INST] Hello", (0, 6), (7, 12))
        (True, False)
    """
    start, end = piece
    words = text[start:end].strip() and text[start:end]
    left, right = start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
    return span[0] <= left < right <= span[1]


def _truncate_user_tokens(lm: LanguageModel, row: Row, limit: int) -> Row:
    """Return a prompt of at most ``limit`` tokens, without the last tokens of the user."""
    ids, content = row
    excess = len(ids) - limit
    if excess <= 0:
        return row
    user_positions = [position for position, user in enumerate(content) if user]
    if excess >= len(user_positions):
        template = len(ids) - len(user_positions)
        raise ConfigError(
            f"the template takes {template} of the {limit} tokens of {lm.name}; shorten the system prompt"
        )
    dropped = set(user_positions[-excess:])
    rest = [position for position in range(len(ids)) if position not in dropped]
    return [ids[position] for position in rest], [content[position] for position in rest]


def _tokenize_text(lm: LanguageModel, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens around it."""
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def pad_id(lm: LanguageModel) -> int:
    """Return the id of padding, which the mask hides from the network."""
    candidates = (lm.tokenizer.pad_token_id, lm.tokenizer.eos_token_id, 0)
    return int(next(token for token in candidates if token is not None))


def _pad_left(lm: LanguageModel, rows: list[Row], replies: list[list[int]]) -> Encoded:
    """Return prompts and answers as a batch, padded on the left."""
    length = max(len(ids) + len(reply) for (ids, _), reply in zip(rows, replies, strict=True))
    ids = torch.full((len(rows), length), pad_id(lm))
    mask, content, answer = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(3))
    for i, ((tokens, user), reply) in enumerate(zip(rows, replies, strict=True)):
        start, turn = length - len(tokens) - len(reply), length - len(reply)
        ids[i, start:] = torch.tensor(tokens + reply)
        mask[i, start:] = True
        content[i, start:turn] = torch.tensor(user)
        answer[i, turn:] = True
    return Encoded(ids, mask, content, answer).to(lm.device)
