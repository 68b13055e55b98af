"""Generation: independence of batch and cache, soft suffixes, perturbations and end tokens."""

from __future__ import annotations

import pytest
import torch

from advreg.errors import ConfigError, DataError
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import embed, logits
from advreg.language.models.generation import (
    continue_prompt,
    decode_completions,
    generate,
    open_suffix_slots,
    pick_at,
    prepare_inputs,
    stop_ids,
)
from advreg.language.models.loading import LanguageModel
from advreg.pass_counting import count_passes
from tests.language.small import tiny

transformers = pytest.importorskip("transformers", reason="needs advreg[language]")
PROMPTS = ["Tell me how to bake a cake.", "Hi", "How do I open a lock, or kill a process?"]


@pytest.fixture(scope="module", params=[1.0, 6.0], ids=["plain", "scaled"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny(scale=request.param, dtype=torch.float64)


def without_cache(lm: LanguageModel, prompt: str, count: int) -> list[int]:
    ids = encode(lm, [prompt]).ids
    for _ in range(count):
        best = lm.network(input_ids=ids).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, best[:, None]], 1)
    return ids[0, -count:].tolist()


def test_completions_do_not_depend_on_cache_or_padding(lm: LanguageModel):
    points, mask = prepare_inputs(lm, encode(lm, PROMPTS), None, None)
    together = continue_prompt(lm, points, mask, 12)
    for row, prompt in enumerate(PROMPTS):
        wanted = without_cache(lm, prompt, 12)
        end = next((k for k, token in enumerate(wanted) if token in stop_ids(lm)), 12)
        assert together[row].tolist() == wanted[: end + 1] + [lm.tokenizer.pad_token_id] * (11 - end)
    assert generate(lm, PROMPTS, max_new_tokens=12, batch_size=2) == decode_completions(lm, together)


def test_generate_equals_greedy_search_of_transformers(lm: LanguageModel):
    encoded = encode(lm, PROMPTS)
    theirs = lm.network.generate(
        input_ids=encoded.ids, attention_mask=encoded.mask.long(), max_new_tokens=12, do_sample=False
    )
    assert generate(lm, PROMPTS, max_new_tokens=12) == decode_completions(lm, theirs[:, encoded.ids.shape[1] :])


def test_suffix_of_word_embeddings_equals_the_words(lm: LanguageModel):
    words = " or not, I am sorry"
    ids = torch.tensor(lm.tokenizer(words, add_special_tokens=False)["input_ids"])
    soft = embed(lm, ids).detach()
    wanted = generate(lm, [prompt + words for prompt in PROMPTS], max_new_tokens=12)
    assert generate(lm, PROMPTS, max_new_tokens=12, suffix=soft) == wanted
    assert generate(lm, PROMPTS, max_new_tokens=12, suffix=soft.expand(3, -1, -1), batch_size=2) == wanted


def test_suffix_slots_follow_the_user_tokens(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ["No."] * 3)
    longer, slots = open_suffix_slots(encoded, 4)
    assert slots.sum(1).tolist() == [4, 4, 4]
    for row in range(3):
        first = int(slots[row].nonzero()[0])
        assert longer.content[row, first - 1]
        assert not longer.content[row, first:].any()
        assert torch.equal(longer.ids[row][~slots[row]], encoded.ids[row])
        assert torch.equal(longer.answer[row][~slots[row]], encoded.answer[row])
    with pytest.raises(DataError, match="a prompt is empty"):
        open_suffix_slots(encode(lm, ["a", ""]), 2)


def test_delta_applies_to_each_prompt_of_a_batch(lm: LanguageModel):
    encoded = encode(lm, PROMPTS)
    shape = (3, int(encoded.content.sum(1).max()), lm.dim)
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert generate(lm, PROMPTS, max_new_tokens=8, delta=torch.zeros_like(delta)) == generate(
        lm, PROMPTS, max_new_tokens=8
    )
    first = logits(lm, encoded, delta)[:, -1].argmax(-1)
    points, mask = prepare_inputs(lm, encoded, delta, None)
    assert torch.equal(continue_prompt(lm, points, mask, 1)[:, 0], first)
    alone = [generate(lm, [p], max_new_tokens=8, delta=delta[i : i + 1])[0] for i, p in enumerate(PROMPTS)]
    assert generate(lm, PROMPTS, max_new_tokens=8, delta=delta, batch_size=2) == alone


def test_completions_end_at_their_end_tokens(monkeypatch: pytest.MonkeyPatch):
    lm = tiny(dtype=torch.float64)
    tokens = [without_cache(lm, prompt, 12) for prompt in PROMPTS]
    monkeypatch.setattr(lm.network.generation_config, "eos_token_id", [2, tokens[0][0], tokens[1][3], tokens[2][2]])
    ends = [next(k for k, token in enumerate(row) if token in stop_ids(lm)) for row in tokens]
    with count_passes(lm.network.lm_head) as passes:
        answers = generate(lm, PROMPTS, max_new_tokens=12)
    assert answers == [lm.tokenizer.decode(row[:end]).strip() for row, end in zip(tokens, ends, strict=True)]
    assert answers[0] == ""  # an empty completion is valid
    assert passes.forwards == 3 * (max(ends) + 1)


def test_generate_restores_modes_and_gradients():
    lm = tiny()
    calm = generate(lm, PROMPTS, max_new_tokens=6)
    lm.network.config.attention_dropout = 0.5
    for layer in lm.network.model.layers:
        layer.self_attn.attention_dropout = 0.5
    lm.network.train()
    assert generate(lm, PROMPTS, max_new_tokens=6) == calm
    assert lm.network.training


def test_long_prompts_leave_room_for_the_completion():
    lm = tiny(context=64)
    with count_passes(lm.network.lm_head) as passes:
        generate(lm, ["bake a cake " * 40], max_new_tokens=30)
    assert passes.forwards <= 30
    with pytest.raises(ConfigError, match="max_new_tokens is 4, batch_size 0, temperature 0"):
        generate(lm, PROMPTS, max_new_tokens=4, batch_size=0)


def test_openings_and_history_are_tokens_of_the_conversation(lm: LanguageModel):
    """A completion continues the opening, and an earlier turn is the text that the chat template writes for it."""
    openings = ["Sure, here is", "No", "Take"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    history = [turns, [], turns]
    done = generate(lm, PROMPTS, max_new_tokens=6, openings=openings, history=history, batch_size=2)
    for prompt, opening, past, text in zip(PROMPTS, openings, history, done, strict=True):
        whole = lm.tokenizer.apply_chat_template(
            [*past, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = [*lm.tokenizer(whole, add_special_tokens=False)["input_ids"]]
        ids += lm.tokenizer(opening, add_special_tokens=False)["input_ids"]
        theirs = lm.network.generate(input_ids=torch.tensor([ids]), max_new_tokens=6, do_sample=False)
        assert [text] == decode_completions(lm, theirs[:, len(ids) :])
    marked = encode(lm, PROMPTS, history=history)
    assert lm.tokenizer.decode(marked.ids[0][marked.content[0]]) == PROMPTS[0]


def test_draws_follow_the_softmax_and_not_the_batch(lm: LanguageModel):
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0])
    for temperature in (0.5, 1.0, 3.0):
        drawn = pick_at(temperature, range(20_000))(scores.expand(20_000, -1), 0)
        shares = torch.bincount(drawn, minlength=4) / 20_000
        torch.testing.assert_close(shares, (scores / temperature).softmax(0), rtol=0, atol=0.015)
    options = {"max_new_tokens": 6, "temperature": 1.0}
    together = generate(lm, PROMPTS, seeds=[5, 6, 7], **options)
    assert together == [generate(lm, [p], seeds=[s], **options)[0] for p, s in zip(PROMPTS, (5, 6, 7), strict=True)]
    assert together != generate(lm, PROMPTS, seeds=[8, 9, 10], **options)
    assert generate(lm, PROMPTS, seeds=[5, 6, 7], max_new_tokens=6, temperature=1e-6) == generate(
        lm, PROMPTS, max_new_tokens=6
    )


def test_defaults_of_the_model_do_not_change_completions(lm: LanguageModel):
    wanted = generate(lm, PROMPTS, max_new_tokens=12)
    before = lm.network.generation_config
    lm.network.generation_config = transformers.GenerationConfig(
        do_sample=True, num_beams=3, repetition_penalty=5.0, no_repeat_ngram_size=2, min_new_tokens=12, max_length=3
    )
    assert generate(lm, PROMPTS, max_new_tokens=12) == wanted
    lm.network.generation_config = before
