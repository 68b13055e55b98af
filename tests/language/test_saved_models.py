"""What training writes loads with plain peft and transformers, and their folders load here, with equal logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from advreg import plugins
from advreg.cli.app import app
from advreg.errors import ConfigError, MissingExtraError, ModelError, WeightsError
from advreg.language.models.adapters import adapter_scale, load_adapter, save_adapter, with_lora
from advreg.language.models.loading import LanguageModel, load
from advreg.language.training.export import export_trained
from advreg.language.training.fit import fit_language
from advreg.language.training.folder import load_trained
from tests.language import lessons
from tests.language.small import tiny

peft = pytest.importorskip("peft", reason="needs advreg[language]")
transformers = pytest.importorskip("transformers", reason="needs advreg[language]")

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # of peft about transformers
IDS = torch.arange(3, 40).reshape(1, -1)


def logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    lm = tiny()
    lm.network.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory) -> dict[str, Path]:
    """Return runs of two steps: an adapter and a whole model."""
    data = lessons.write_data(tmp_path_factory.mktemp("texts"))
    changes = (f"model.name={base}", "train.steps=2", "train.lr=0.05", "train.guard=off", "train.ema=0")
    out = tmp_path_factory.mktemp("runs")
    return {
        name: fit_language(lessons.config(data, out / name, *changes, f"model.rank={rank}")).path
        for name, rank in {"adapter": 2, "whole": 0}.items()
    }


def test_run_folder_loads_with_plain_peft(base, runs):
    ours = logits(load_trained(runs["adapter"]).network)
    network = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert not torch.allclose(logits(network), ours, atol=1e-3)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(network, runs["adapter"])), ours)
    assert torch.equal(logits(peft.AutoPeftModelForCausalLM.from_pretrained(runs["adapter"])), ours)
    assert torch.equal(logits(load(str(runs["adapter"])).network), ours)


def test_whole_model_loads_with_plain_transformers(base, runs):
    ours = load_trained(runs["whole"])
    assert torch.equal(logits(transformers.AutoModelForCausalLM.from_pretrained(runs["whole"])), logits(ours.network))
    assert torch.equal(logits(load(str(runs["whole"])).network), logits(ours.network))
    words = transformers.AutoTokenizer.from_pretrained(runs["whole"])
    assert words.chat_template == ours.tokenizer.chat_template
    assert not torch.allclose(logits(load(str(base)).network), logits(ours.network), atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_exports_give_the_logits_of_the_scaled_adapter(base, runs, tmp_path, scale):
    single, double = (load_trained(runs["adapter"], dtype=dtype) for dtype in ("float32", "float64"))
    with adapter_scale(single, scale), adapter_scale(double, scale):
        ours, exact = logits(single.network), logits(double.network)
    merged = export_trained(runs["adapter"], tmp_path / "merged", merge=True, scale=scale, dtype="float64")
    assert torch.allclose(logits(transformers.AutoModelForCausalLM.from_pretrained(merged)), exact, atol=1e-11, rtol=0)
    adapter = export_trained(runs["adapter"], tmp_path / "adapter", scale=scale)
    assert torch.equal(logits(peft.AutoPeftModelForCausalLM.from_pretrained(adapter)), ours)
    for folder in (merged, adapter):
        words = transformers.AutoTokenizer.from_pretrained(folder)
        assert words.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).count("Hi") == 1


def test_export_of_a_whole_model_keeps_it(runs, tmp_path):
    out = export_trained(runs["whole"], tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(logits(again), logits(load_trained(runs["whole"]).network))
    assert (out / "base.json").read_text() == (runs["whole"] / "base.json").read_text()
    with pytest.raises(ConfigError, match="trained without an adapter"):
        export_trained(runs["whole"], tmp_path / "more", scale=0.5)
    assert not (tmp_path / "more").exists()


def test_the_verb_export_writes_the_merged_model(runs, tmp_path):
    done = CliRunner().invoke(
        app, ["language", "export", str(runs["adapter"]), str(tmp_path / "out"), "--merge", "--json"]
    )
    assert json.loads(done.output) == {"folder": str(tmp_path / "out")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "base.json"} <= {
        f.name for f in (tmp_path / "out").iterdir()
    }


def test_an_adapter_of_a_base_only_advreg_loads_must_be_merged(tmp_path):
    data = lessons.write_data(tmp_path)
    run = fit_language(lessons.config(data, tmp_path / "run", "train.steps=1", "train.guard=off"))
    with pytest.raises(ConfigError, match="merge the adapter"):
        export_trained(run, tmp_path / "out")
    merged = export_trained(run, tmp_path / "out", merge=True, dtype="float64")
    ours = logits(load_trained(run, dtype="float64").network)
    assert torch.allclose(logits(transformers.AutoModelForCausalLM.from_pretrained(merged)), ours, atol=1e-11, rtol=0)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True, "modules_to_save": ["lm_head"]}])
def test_adapters_of_plain_peft_load(base, tmp_path, options):
    config = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options
    )
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.05 if weight.requires_grad else 0.0)
    theirs.save_pretrained(tmp_path)
    assert torch.equal(logits(load(str(tmp_path)).network), logits(theirs))


def test_adapter_of_the_first_format_loads(tmp_path):
    lm = with_lora(tiny(), rank=4, alpha=8)
    state = {name: torch.randn_like(w) for name, w in lm.network.named_parameters() if "lora_" in name}
    lm.network.load_state_dict(state, strict=False)
    save_file(state, tmp_path / "adapter.safetensors")
    (tmp_path / "adapter.json").write_text(json.dumps({"kind": "lora", "model": "tiny-0", "rank": 4, "alpha": 8}))
    assert torch.equal(logits(load_adapter(tiny(), tmp_path).network), logits(lm.network))


def test_base_is_recorded_and_other_weights_are_rejected(base, runs, tmp_path):
    record = json.loads((runs["adapter"] / "base.json").read_text())
    assert record["model"] == str(base)
    assert len(record["sha256"]) == 64
    other = tiny(seed=1)
    other.network.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(WeightsError, match="was trained on other weights"):
        load_adapter(load(str(tmp_path / "other")), runs["adapter"])


@pytest.mark.parametrize(("base", "message"), [(None, "names no base model"), ("os:getpid", "runs code")])
def test_a_base_that_is_missing_or_code_is_rejected(tmp_path, base, message):
    save_adapter(with_lora(tiny(), rank=2), tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(values | {"base_model_name_or_path": base}))
    trusted = plugins._TRUSTED.set(False)
    with pytest.raises(ModelError, match=message):
        load(str(tmp_path))
    plugins._TRUSTED.reset(trusted)


def test_an_adapter_that_imports_a_module_is_rejected(tmp_path):
    save_adapter(with_lora(tiny(), rank=2), tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(values | {"megatron_config": {"a": 1}}))
    with pytest.raises(WeightsError, match="has no readable adapter"):
        load_adapter(tiny(), tmp_path)


def test_layers_are_spread_by_accelerate(base, monkeypatch):
    pytest.importorskip("accelerate", reason="needs advreg[language]")
    given, own = [], transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(place, **options):
        given.append(options.get("device_map"))
        return own(place, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    spread, plain = load(str(base), device="auto"), load(str(base))
    assert given == ["auto", None]
    assert torch.allclose(logits(spread.network.cpu()), logits(plain.network), atol=1e-5)
    with pytest.raises(ConfigError, match="is a factory, which places its network itself"):
        load("tests.language.lessons:tiny", device="auto")


def test_a_base_in_four_bits_needs_bitsandbytes(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="pip install 'bitsandbytes'"):
        load(str(base), quantization="nf4")


def test_saved_adapter_is_the_same_bytes_in_any_process(tmp_path):
    """The names of the layers are a set in peft, whose order depends on the process."""
    save_adapter(with_lora(tiny(), rank=2), tmp_path)
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)
    assert all(
        key.startswith("base_model.model.model.layers.") for key in load_file(tmp_path / "adapter_model.safetensors")
    )


def test_a_system_prompt_of_the_model_is_in_every_conversation():
    from advreg.language.models.chat import encode

    lm = tiny()
    given = LanguageModel(lm.network, lm.tokenizer, "given", system="Be brief.")
    wanted = encode(lm, ["Hi"], ["No."], system="Be brief.")
    assert torch.equal(encode(given, ["Hi"], ["No."]).ids, wanted.ids)
    assert torch.equal(encode(given, ["Hi"], ["No."], system="Be kind.").ids, encode(lm, ["Hi"], ["No."]).ids)
