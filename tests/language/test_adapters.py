"""Adapters: no effect at initialisation, a scale between base and trained model, and a round trip through a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from advreg.errors import ConfigError, RunError, WeightsError
from advreg.language.models.adapters import adapter_off, adapter_scale, load_adapter, save_adapter, with_lora
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import answer_nll, embed, embedding_norm, logits
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from tests.language.small import tiny

pytest.importorskip("peft", reason="needs advreg[language]")


def trained(seed: int = 0) -> LanguageModel:
    lm = with_lora(tiny(), rank=4, alpha=8, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lm.network.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return lm


def scores(lm: LanguageModel) -> torch.Tensor:
    return logits(lm, encode(lm, ["Tell me how to bake", "Hi"], ["No.", "Sure, here"])).detach()


def test_new_adapter_keeps_outputs_and_is_all_that_trains():
    state = torch.random.get_rng_state()
    lm = with_lora(tiny(), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(scores(lm), scores(tiny()))
    learning = {name for name, weight in lm.network.named_parameters() if weight.requires_grad}
    assert learning
    assert all("lora_" in name and "lm_head" not in name for name in learning)
    again = dict(with_lora(tiny(), seed=3).network.named_parameters())
    assert all(torch.equal(weight, again[name]) for name, weight in lm.network.named_parameters())


def test_adapter_scale_interpolates_base_and_trained_model():
    base, lm = scores(tiny()), trained()
    full = scores(lm)
    with adapter_scale(lm, 1.0):
        assert torch.equal(scores(lm), full)
    with adapter_off(lm):
        assert torch.equal(scores(lm), base)
    with adapter_scale(lm, 0.5):
        half = scores(lm)
        with adapter_scale(lm, 0.5):
            quarter = scores(lm)
    gaps = [float((each - base).norm()) for each in (base, quarter, half, full)]
    assert gaps == sorted(gaps)
    assert gaps[1] > 0
    assert torch.equal(scores(lm), full)


def test_adapter_scale_is_restored_after_an_error():
    lm = trained()
    full = scores(lm)
    with pytest.raises(ConfigError), adapter_scale(lm, 0.0):
        with_lora(lm)
    assert torch.equal(scores(lm), full)


def test_adapter_gets_gradients_after_it_was_off():
    lm = trained()
    encoded = encode(lm, ["Hi"], ["No."])
    with adapter_off(lm), torch.no_grad():
        logits(lm, encoded)
    answer_nll(logits(lm, encoded), encoded).sum().backward()
    assert all(weight.grad is not None for weight in lm.network.parameters() if weight.requires_grad)


def test_saved_adapter_gives_the_same_logits(tmp_path: Path):
    lm = trained()
    save_adapter(lm, tmp_path / "run")
    first = (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    save_adapter(lm, tmp_path / "run")
    assert (tmp_path / "run" / "adapter_model.safetensors").read_bytes() == first
    loaded = load_adapter(tiny(), tmp_path / "run")
    assert torch.equal(scores(loaded), scores(lm))
    assert str(tmp_path) not in (tmp_path / "run" / "adapter_config.json").read_text()


def test_attacks_and_generation_take_a_model_with_adapter():
    lm, base = trained(), tiny()
    assert (lm.context, lm.dim, embedding_norm(lm)) == (base.context, base.dim, embedding_norm(base))
    ids = encode(lm, ["Hi"]).ids
    assert torch.equal(embed(lm, ids), embed(base, ids))
    with adapter_off(lm):
        assert generate(lm, ["Hi"], max_new_tokens=6) == generate(base, ["Hi"], max_new_tokens=6)


def test_missing_adapter_raises_one_line(tmp_path: Path):
    plain = tiny()
    with pytest.raises(ConfigError, match="has no adapter to save"):
        save_adapter(plain, tmp_path)
    with pytest.raises(ConfigError, match="has no adapter to scale"), adapter_scale(plain, 0.5):
        pass
    with pytest.raises(ConfigError, match="rank is 0"):
        with_lora(plain, rank=0)
    with pytest.raises(RunError, match="no run folder"):
        load_adapter(plain, tmp_path / "none")
    with pytest.raises(WeightsError, match="has no readable adapter"):
        load_adapter(plain, tmp_path)


def test_damaged_or_foreign_adapters_raise(tmp_path: Path):
    save_adapter(trained(), tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    for change in ({"r": 2}, {"target_modules": ["q_proj"]}):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(WeightsError, match="is for tiny-0"):
            load_adapter(tiny(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x10")
    with pytest.raises(WeightsError, match="has no readable adapter"):
        load_adapter(tiny(), tmp_path)
