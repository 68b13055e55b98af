"""A configuration survives the way to text and back, and what is wrong in one is said in one line."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from advreg.config import Config, toml
from advreg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def test_text_and_back_is_the_same_configuration():
    config = Config().replace_with(
        [
            "seed=7",
            "threat.eps=8",
            "threat.box=[0, 255]",
            "attack.name=pgd",
            "attack.step_size=2",
            "recipe.name=madry",
            "recipe.options.label_smoothing=0.1",
            "schedule.name=multistep",
            "schedule.options.milestones=[0.5, 0.75]",
            'model.options.name=a \\ "quoted" ü\u007f name',
            "optimizer.nesterov=true",
        ]
    )
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config


def test_saved_text_shows_every_default():
    saved = tomllib.loads(Config().to_toml())
    assert saved == Config().to_dict()
    assert saved["attack"]["step_size"] == "auto"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    assert Config.load(path).train.out == f"runs/{path.stem}"


def test_a_file_without_a_box_opens_with_that_of_pixels(tmp_path):
    values = Config().replace_with(["threat.eps=0.1"]).to_dict()
    del values["threat"]["box"]
    (tmp_path / "run.toml").write_text(toml.dumps(values))
    assert Config.load(tmp_path / "run.toml").threat.box == [0.0, 1.0]


def test_ratio_is_the_exact_quotient():
    assert Config().replace_with(["threat.eps=8/255"]).threat.eps == 8 / 255


def test_whole_number_is_read_as_a_float():
    assert repr(Config().replace_with(["optimizer.lr=1"]).optimizer.lr) == "1.0"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.epochz=3", ["'epochz'", "[train]", "Did you mean 'epochs'?"]),
        ("modle.name=x", ["'modle'", "Did you mean 'model'?"]),
        ("epochs=3", ["'epochs'", "It belongs to [train]."]),
        ("train.epochs=0", ["train.epochs is 0", "greater than or equal to 1"]),
        ("train.epochs=2.5", ["train.epochs is 2.5", "integer"]),
        ("train.epochs=true", ["train.epochs is True", "integer"]),
        ("train.epochs=two", ["train.epochs is 'two'", "integer"]),
        ("optimizer.lr=-1", ["optimizer.lr is -1", "greater than 0"]),
        ("optimizer.lr=nan", ["optimizer.lr is nan", "finite"]),
        ("threat.eps=8/0", ["threat.eps is '8/0'", "number"]),
        ("threat.eps=-0.1", ["threat.eps is -0.1"]),
        ("threat.box=[0, 1, 2]", ["threat.box is [0, 1, 2]", "2 items"]),
        ("threat.box=[0]", ["threat.box is [0]", "2 items"]),
        ("threat.box=['a', 1]", ["threat.box is 'a'", "number"]),
        ("attack.name=pdg", ["attack.name is 'pdg'", "Did you mean 'pgd'?"]),
        ("attack.step_size=0", ["attack.step_size is 0", "'auto'"]),
        ("data.validation=-1", ["data.validation is -1"]),
        ("train=3", ["train is 3"]),
        ("seed.deep=3", ["'seed'", "not a section"]),
        ("seed", ["'seed'", "section.key=value"]),
        ("attack.name=pgd", ["threat.eps is 0", "8/255"]),
        ("optimizer.momentum=1", ["optimizer.momentum is 1"]),
    ],
)
def test_what_is_wrong_is_named_in_one_line(assignment, said):
    with pytest.raises(ConfigError) as error:
        Config().replace_with([assignment])
    message = str(error.value)
    assert message.startswith("--set")
    assert "\n" not in message
    for part in said:
        assert part in message


def test_recipe_and_attack_must_go_together():
    with pytest.raises(ConfigError, match="'crown_ibp' go with attack 'none'"):
        Config().replace_with(["attack.name=pgd", "threat.eps=0.1"])
    with pytest.raises(ConfigError, match="every other recipe"):
        Config().replace_with(["recipe.name=madry"])


@pytest.mark.parametrize(
    "changes",
    [
        ["attack.name=stored", "policy.name=iaat", "policy.options.method=margin"],
        ["policy.name=friendly", "attack.steps=7"],
        ["policy.name=warmup", "attack.name=none", "recipe.name=standard"],
        ["policy.name=warmup", "attack.name=n-fgsm"],
        ["attack.name=n-fgsm", "attack.step_size=4/255"],
        ["average.name=ema", "average.reestimate=2", "recipe.name=standard", "attack.name=none"],
    ],
    ids=lambda changes: " ".join(changes),
)
def test_what_can_go_together_is_allowed(changes):
    assert Config().replace_with(["attack.name=pgd", "recipe.name=madry", "threat.eps=0.1", *changes])


def test_nesterov_needs_sgd_with_momentum():
    with pytest.raises(ConfigError, match="nesterov"):
        Config().replace_with(["optimizer.nesterov=true", "optimizer.name=adam"])


def test_several_mistakes_are_counted():
    with pytest.raises(ConfigError, match=r"\(and 1 more\)"):
        Config().replace_with(["optimizer.lr=-1", "train.epochs=0"])


def test_message_names_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[train]\nepochs = 0\n")
    with pytest.raises(ConfigError, match=r"run\.toml: train\.epochs is 0"):
        Config.load(path)
    path.write_text("[train\n")
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML"):
        Config.load(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Config.load(tmp_path / "absent.toml")


def test_a_date_is_rejected_like_any_wrong_type(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("seed = 1979-05-27\n")
    with pytest.raises(ConfigError, match="seed is '1979-05-27'"):
        Config.load(path)


def test_configuration_made_in_python_is_checked_on_demand():
    config = Config(seed="zero")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed is 'zero'"):
        config.checked()


def test_value_cannot_smuggle_in_other_keys():
    assert toml.value("1\nother = 2") == "1\nother = 2"


def test_configuration_does_not_need_torch():
    code = "import sys, advreg.config, advreg.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
