"""Encoded conversations: masks of user tokens and answers, padding, truncation and templates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from advreg.errors import ConfigError, DataError
from advreg.language.models.chat import Encoded, encode, end_of_turn
from advreg.language.models.loading import LanguageModel
from tests.language.small import tiny, tokenizer

PROMPTS = [
    "Tell me how to bake a cake.",
    "Hi",
    "user assistant system",
    "  two blanks, a tab\tand\nlines ",
    "Überraschung 🎂!",
]
INST = "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"  # noqa: E501
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"  # noqa: E501


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny()


def with_template(template: str | None, context: int = 512) -> LanguageModel:
    words = tokenizer()
    words.chat_template = template
    return replace(tiny(context=context), tokenizer=words)


def text(lm: LanguageModel, encoded: Encoded, row: int, mark: torch.Tensor) -> str:
    return lm.tokenizer.decode(encoded.ids[row][mark[row]])


def test_content_mask_marks_the_user_text_only(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ["Yes."] * len(PROMPTS), system="Be brief.")
    for row, prompt in enumerate(PROMPTS):
        assert text(lm, encoded, row, encoded.content).strip() == prompt.strip()
        assert text(lm, encoded, row, encoded.answer) == "Yes.<|im_end|>"
        rest = text(lm, encoded, row, encoded.mask & ~encoded.content & ~encoded.answer)
        assert rest.replace("\n", "").split() == [
            "<|im_start|>systemBe",
            "brief.<|im_end|><|im_start|>user<|im_end|><|im_start|>assistant",
        ]


def test_encoded_tokens_equal_the_tokenized_template(lm: LanguageModel):
    encoded = encode(lm, [PROMPTS[0]])
    whole = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[0]}], tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert encoded.ids[0].tolist() == whole["input_ids"]
    assert encoded.ids[0, 0] == lm.tokenizer.bos_token_id  # the bos is the first token of this template
    assert not encoded.answer.any()


def test_prompt_tokens_do_not_depend_on_the_answer(lm: LanguageModel):
    short, long = (
        encode(lm, PROMPTS, ["No."] * 5),
        encode(lm, PROMPTS, ["Sure, here is how, and more of it, and more"] * 5),
    )
    for row in range(len(PROMPTS)):
        own = [
            (e.ids[row][e.mask[row] & ~e.answer[row]].tolist(), e.content[row][e.mask[row] & ~e.answer[row]].tolist())
            for e in (short, long, encode(lm, PROMPTS))
        ]
        assert own[0] == own[1] == own[2]


def test_padding_is_on_the_left_and_masked(lm: LanguageModel):
    assert lm.tokenizer.pad_token_id == lm.tokenizer.eos_token_id
    encoded = encode(lm, PROMPTS, ["No.", "A longer answer than the others.", "", "x", "y"])
    assert encoded.mask[:, -1].all()
    assert (encoded.mask.int().diff(dim=1) >= 0).all()
    assert encoded.answer[:, -1].all()  # the end of turn is part of the answer, although it has the id of padding
    assert (encoded.ids[:, -1] == lm.tokenizer.eos_token_id).all()
    assert encoded.answer.sum(1).min() == 1  # an empty answer has its end of turn only


def test_opener_has_no_end_of_turn(lm: LanguageModel):
    encoded = encode(lm, ["Hi"], ["Sure, here"], ended=False)
    assert text(lm, encoded, 0, encoded.answer) == "Sure, here"


def test_selected_rows_drop_common_padding(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ["No."] * 5)
    row = encoded.select(torch.tensor([1]))
    alone = encode(lm, [PROMPTS[1]], ["No."])
    for name in ("ids", "mask", "content", "answer"):
        assert torch.equal(getattr(row, name), getattr(alone, name))
    assert len(encoded.select(slice(1, 3))) == 2


@pytest.mark.parametrize(("template", "end"), [(INST, "<|im_end|>"), (PLAIN, "<|im_end|>")])
def test_templates_may_trim_or_lack_an_end_of_turn(template: str, end: str):
    lm = with_template(template)
    encoded = encode(lm, PROMPTS, ["No."] * 5)
    for row, prompt in enumerate(PROMPTS):
        assert text(lm, encoded, row, encoded.content).strip() == prompt.strip()
        assert text(lm, encoded, row, encoded.answer) == "No." + end
    assert end_of_turn(lm) == end


def test_token_with_template_blank_is_user_content():
    lm = with_template(INST)
    encoded = encode(lm, ["how to"])
    assert text(lm, encoded, 0, encoded.content) == " how to"


def test_long_prompt_is_cut_independently_of_the_answer():
    lm = tiny(context=64)
    prompts, answers = ["bake a cake " * 30] * 2, ["No.", "word " * 60]
    encoded = encode(lm, prompts, answers)
    assert encoded.ids.shape == (2, 64)
    assert encoded.content.sum(1).tolist() == [int(encode(lm, prompts[:1]).content.sum())] * 2
    assert (encoded.mask & ~encoded.answer).sum(1).tolist() == [48, 48]  # a quarter is reserved for the answer
    assert prompts[0].startswith(text(lm, encoded, 1, encoded.content))
    assert int(encoded.answer[1].sum()) == 16
    assert int((encode(lm, prompts, room=30).mask).sum(1).max()) == 34


def test_invalid_conversations_raise_one_line(lm: LanguageModel):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + INST
    cases = [
        (ConfigError, "has no chat template", lambda: encode(with_template(None), ["Hi"])),
        (
            ConfigError,
            "fails for system, user: .*no system here",
            lambda: encode(with_template(refusing), ["a"], system="b"),
        ),
        (
            ConfigError,
            "changes the user's text",
            lambda: encode(with_template("[{{ messages[0]['content'] | upper }}]"), ["Hi"]),
        ),
        (
            ConfigError,
            "shorten the system prompt",
            lambda: encode(tiny(context=24), ["bake " * 50], system="be " * 50),
        ),
        (DataError, "0 prompts", lambda: encode(lm, [])),
        (DataError, "2 prompts and 1 answers", lambda: encode(lm, ["a", "b"], ["c"])),
        (DataError, "answer 1 is empty", lambda: encode(lm, ["a", "b"], ["c", ""], ended=False)),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
