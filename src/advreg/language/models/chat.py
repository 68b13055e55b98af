"""From conversations to tokens: which are the user's, which are the answer's, and which belong to the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.language.models.loading import LanguageModel
from advreg.plugins import first_line

_USER, _ASSISTANT = "advreg-user-words", "advreg-assistant-words"
"""Words that stand for the user's and the assistant's when a template is asked what it puts around them."""


@dataclass(frozen=True)
class Encoded:
    """A batch of conversations, padded on the left.

    Attributes:
        ids: token ids ``(B, T)``.
        mask: True where there is a token and not padding ``(B, T)``.
        content: True on the user's own words, never on the template's or the system's ``(B, T)``.
        answer: True on the answer, its end-of-turn token among it ``(B, T)``.
    """

    ids: Tensor
    mask: Tensor
    content: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor | slice) -> Encoded:
        """Return these rows, without the columns that are padding in all of them."""
        mask = self.mask[rows]
        first = int(mask.any(0).int().argmax())
        return Encoded(*(part[rows][:, first:] for part in (self.ids, self.mask, self.content, self.answer)))

    def to(self, device: torch.device | str) -> Encoded:
        """Return the batch on another device."""
        return Encoded(*(part.to(device) for part in (self.ids, self.mask, self.content, self.answer)))


Row = tuple[list[int], list[bool]]
"""Token ids of one prompt, and which of them are the user's words."""


def encode(
    lm: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    system: str | None = None,
    ended: bool = True,
    room: int | None = None,
) -> Encoded:
    """Tokenise conversations of one question each, as the model's chat template writes them.

    Prompt and answer are tokenised apart, as they are when the model writes the answer itself: a prompt has the same tokens
    whatever the answer. Too long a prompt loses the end of the user's words, by a rule that does not look at the answer; then
    the answer loses its end.

    Args:
        lm: the model.
        prompts: the user's words, one conversation each.
        answers: the assistant's words; without them the tokens end where the model would begin to answer.
        system: the system's words; what the template says by itself if None.
        ended: whether an answer is whole and its end-of-turn token follows; False for an opener to be continued.
        room: tokens kept free for the answer; a quarter of the context if None.

    Returns:
        An `Encoded` batch on the model's device.

    Raises:
        ConfigError: no chat template, one that fails, or one that leaves no place for the user's words.
        DataError: no prompts, another number of answers, or an answer without tokens.

    Reference: Xhonneux et al., NeurIPS 2024 perturb the user's tokens only.
    """
    if not prompts or (answers is not None and len(answers) != len(prompts)):
        given = "none" if answers is None else str(len(answers))
        raise DataError(
            f"there are {len(prompts)} prompts and {given} answers; give at least one prompt, one answer each"
        )
    free = lm.context // 4 if room is None else room
    rows = [_truncate_user_tokens(lm, row, lm.context - free) for row in _tokenize_prompts(lm, prompts, system)]
    if answers is None:
        return _pad_left(lm, rows, [[] for _ in rows])
    end = end_of_turn(lm, system) if ended else ""
    replies = [
        _tokenize_text(lm, answer + end)[: lm.context - len(row[0])] for answer, row in zip(answers, rows, strict=True)
    ]
    if not all(replies):
        raise DataError(f"answer {[bool(reply) for reply in replies].index(False)} is empty; give at least one word")
    return _pad_left(lm, rows, replies)


def end_of_turn(lm: LanguageModel, system: str | None = None) -> str:
    """Return the text that ends an answer: what the template writes after it, or the tokenizer's end of sequence."""
    turns = [*_turns(_USER, system), {"role": "assistant", "content": _ASSISTANT}]
    _, _, after = _render(lm, turns, False).partition(_ASSISTANT)
    return after.strip() or lm.tokenizer.eos_token or ""


def _turns(prompt: str, system: str | None) -> list[dict[str, str]]:
    return ([] if system is None else [{"role": "system", "content": system}]) + [{"role": "user", "content": prompt}]


def _render(lm: LanguageModel, turns: list[dict[str, str]], ask: bool) -> str:
    if not lm.tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {lm.name} has no chat template; use a model tuned to chat, or set tokenizer.chat_template"
        )
    try:
        text: str = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    except Exception as cause:  # templates raise what they like, for a role that they do not take
        roles = ", ".join(turn["role"] for turn in turns)
        raise ConfigError(f"the chat template of {lm.name} refuses {roles}: {first_line(cause)}") from cause
    return text


def _tokenize_prompts(lm: LanguageModel, prompts: Sequence[str], system: str | None) -> list[Row]:
    """Return each prompt as tokens; the user's words are what stands where the template put other words before."""
    before, found, after = _render(lm, _turns(_USER, system), True).partition(_USER)
    texts = [_render(lm, _turns(prompt, system), True) for prompt in prompts]
    if not found or not all(text.startswith(before) and text.endswith(after) for text in texts):
        raise ConfigError(f"the chat template of {lm.name} does not write the user's words as they are; use another")
    if not lm.tokenizer.is_fast:
        raise ConfigError(f"the tokenizer of {lm.name} does not say where its tokens lie; use a fast one")
    batch = lm.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = [(len(before), len(text) - len(after)) for text in texts]
    return [
        (ids, [_is_user_token(text, piece, span) for piece in pieces])
        for text, ids, pieces, span in zip(texts, batch["input_ids"], batch["offset_mapping"], spans, strict=True)
    ]


def _is_user_token(text: str, piece: tuple[int, int], span: tuple[int, int]) -> bool:
    """Tell whether a token is the user's; blanks of the template that a token took along do not count.

    Example:
        >>> _inside("[INST] Hello", (6, 12), (7, 12)), _inside("[INST] Hello", (0, 6), (7, 12))
        (True, False)
    """
    start, end = piece
    words = text[start:end].strip() and text[start:end]
    left, right = start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
    return span[0] <= left < right <= span[1]


def _truncate_user_tokens(lm: LanguageModel, row: Row, most: int) -> Row:
    """Take the last of the user's tokens away until the prompt fits."""
    ids, content = row
    over = len(ids) - most
    if over <= 0:
        return row
    own = [place for place, mine in enumerate(content) if mine]
    if over >= len(own):
        rest = len(ids) - len(own)
        raise ConfigError(f"the template takes {rest} of the {most} tokens of {lm.name}; shorten the system's words")
    gone = set(own[-over:])
    kept = [place for place in range(len(ids)) if place not in gone]
    return [ids[place] for place in kept], [content[place] for place in kept]


def _tokenize_text(lm: LanguageModel, text: str) -> list[int]:
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def pad_id(lm: LanguageModel) -> int:
    """Return the id written on padding, where the mask is False and so nothing reads it."""
    known = (lm.tokenizer.pad_token_id, lm.tokenizer.eos_token_id, 0)
    return int(next(token for token in known if token is not None))


def _pad_left(lm: LanguageModel, rows: list[Row], replies: list[list[int]]) -> Encoded:
    length = max(len(ids) + len(reply) for (ids, _), reply in zip(rows, replies, strict=True))
    ids = torch.full((len(rows), length), pad_id(lm))
    mask, content, answer = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(3))
    for i, ((tokens, own), reply) in enumerate(zip(rows, replies, strict=True)):
        start, turn = length - len(tokens) - len(reply), length - len(reply)
        ids[i, start:] = torch.tensor(tokens + reply)
        mask[i, start:] = True
        content[i, start:turn] = torch.tensor(own)
        answer[i, turn:] = True
    return Encoded(ids, mask, content, answer).to(lm.device)
