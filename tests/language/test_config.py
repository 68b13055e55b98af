"""The configuration of language training: round trip through TOML, and one error line for each invalid value."""

from __future__ import annotations

import pytest

from advreg.errors import ConfigError
from advreg.language.config import LanguageConfig


def test_config_round_trips_through_toml(tmp_path):
    config = LanguageConfig().replace_with(
        ["recipe.name=latent", "attack.layers=[2, 4]", "train.lr=5e-4", "attack.eps=1/20"]
    )
    (tmp_path / "run.toml").write_text(config.to_toml())
    assert LanguageConfig.load(tmp_path / "run.toml") == config
    assert config.attack.eps == 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.mix=1.5"], r"--set: train\.mix is 1\.5; allowed: less than or equal to 1"),
        (["train.mixx=0.1"], r"unknown key 'mixx' in \[train\]; allowed: .* Did you mean 'mix'\?"),
        (["recipe.name=pgd"], r"recipe\.name is 'pgd'; allowed: 'plain', 'continuous'"),
        (["recipe.teacher=1.0"], r"recipe\.teacher needs smart"),
        (["recipe.name=freelb", "train.mix=1"], r"recipe\.name is 'freelb', which attacks benign examples"),
        (["recipe.name=smart", "attack.steps=0"], r"set train\.mix below 1 and attack\.steps above 0"),
        (["recipe.kl=1.0", "model.rank=0"], r"recipe\.kl and circuit_breakers need the model before training"),
        (["model.quantization=nf4", "model.rank=0"], r"set model\.rank above 0"),
        (["model.dtype=bfloat16", "model.rank=0"], r"model\.dtype is 'bfloat16'"),
        (["train.mix"], "write section.key=value"),
    ],
)
def test_invalid_values_raise_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        LanguageConfig().replace_with(changes)
    assert "\n" not in str(error.value)


def test_missing_or_broken_config_raises_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        LanguageConfig.load(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("[train")
    with pytest.raises(ConfigError, match="is not TOML"):
        LanguageConfig.load(tmp_path / "broken.toml")
