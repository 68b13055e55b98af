"""The file of features: read, drafted, and rejected in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from advreg import ThreatModel, attacks, evaluate, load_data, robustness_curve
from advreg.cli.app import app
from advreg.cli.resolution import parse_radii
from advreg.config import Config
from advreg.config.features import draft_features, parse_features, read_features
from advreg.config.threat import configured_threat
from advreg.documents import parse_toml
from advreg.errors import ConfigError, DataError, ThreatError
from advreg.training.inner.gaussian_start import trades_pgd
from advreg.training.setup import prepare
from tests.constraints.loans import NAMES, loan_threat, loans, violations

AGE = {"type": "int", "mutable": True, "min": 0, "max": 120}


def parse(**changes):
    return parse_features({"features": {"age": AGE | changes}}, "features.toml")


def test_a_file_gives_the_threat_model_it_describes(tmp_path: Path) -> None:
    path = tmp_path / "features.toml"
    path.write_text(
        "[features.amount]\nmutable = true\nmin = 0\nmax = 9\nscale = 2.5\n"
        '[features.count]\ntype = "int"\nmutable = true\nmin = "clean"\nmax = 20\n'
        '[features.own]\ntype = "cat"\nmutable = true\nmin = 0\nmax = 1\ngroup = "home"\n'
        '[features.rent]\ntype = "cat"\nmutable = true\nmin = 0\nmax = 1\ngroup = "home"\n'
        "[features.age]\nmutable = false\nmin = 0\nmax = 99\n"
        '[features.total]\nmutable = true\nmin = 0\nmax = 999\nscale = "free"\n'
        '[relations]\nallowed = ["total = amount * count"]\n'
    )
    x = torch.tensor([[2.0, 3.0, 1.0, 0.0, 40.0, 6.0], [1.0, 5.0, 0.0, 1.0, 50.0, 5.0]])
    threat = read_features(path).threat("linf", 1.0, x)
    assert threat.scale.tolist() == [2.5, 1.0, 1.0, 1.0, 0.0, float("inf")]
    assert threat.rules.integer == (1,)
    assert threat.rules.groups == ((2, 3),)
    assert threat.rules.one_sided[1] == 1
    found = threat.repair(x + torch.tensor([3.0, -2.0, -0.9, 0.9, 5.0, 50.0]), x)
    assert bool(threat.contains(found, x).all())
    assert found[0].tolist() == [4.5, 3.0, 0.0, 1.0, 40.0, 13.5]


def test_a_draft_is_refused_until_each_feature_is_decided(tmp_path: Path) -> None:
    path, x = tmp_path / "features.toml", loans(50)
    path.write_text(draft_features(x, NAMES))
    table = read_features(path)
    assert table.names == NAMES
    assert [each.type for each in table.features][:2] == ["real", "int"]
    with pytest.raises(ConfigError, match="12 features are undecided") as caught:
        table.threat("l2", 1.0, x)
    assert "\n" not in str(caught.value)
    path.write_text(path.read_text().replace('"?"', "true"))
    assert bool(read_features(path).threat("l2", 1.0, x).contains(x, x).all())


def test_metadata_of_tabularbench_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("feature,type,mutable,min,max\nage,int,FALSE,0,99\nsum,real,TRUE,dynamic,10.5\n")
    table = read_features(path)
    assert [each.mutable for each in table.features] == [False, True]
    assert table.features[1].side == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mutabel": True}, "Did you mean 'mutable'"),
        ({"type": "text"}, "allowed: real, int, cat"),
        ({"mutable": "yes"}, "write true or false"),
        ({"min": "lowest"}, 'give a number, or "clean"'),
        ({"min": 200}, "above max"),
        ({"scale": 0}, 'above 0, or "free"'),
        ({"direction": "left"}, "allowed: up, down"),
        ({"type": "cat"}, "one-hot group"),
    ],
)
def test_wrong_entries_raise_one_line(changes, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(**changes)
    assert "\n" not in str(caught.value)


def write_table(folder: Path) -> tuple[Path, Path]:
    """Write a table of two columns, its features, and a model file of this folder."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 10, (60, 2), generator=g)
    lines = ["a,b,label", *(f"{a},{b},{int(a + b > 9)}" for a, b in rows.tolist())]
    (folder / "table.csv").write_text("\n".join(lines))
    (folder / "features.toml").write_text(
        '[features.a]\ntype = "int"\nmutable = true\nmin = 0\nmax = 9\n'
        '[features.b]\ntype = "int"\nmutable = false\nmin = 0\nmax = 9\n'
    )
    return folder / "table.csv", folder / "features.toml"


def test_the_command_line_evaluates_a_table_with_its_features(tmp_path: Path) -> None:
    table, features = write_table(tmp_path)
    arguments = ["evaluate", "tests.test_features_file:adder", "--data", f"csv:{table}?label=label"]
    arguments += ["--features", str(features), "--threat", "linf:2", "--json", "--trust-code"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout.strip().splitlines()[-1])
    assert "-scale-" in record["protocol"]
    assert "-rules-" in record["protocol"]
    assert [each["name"] for each in record["by_attack"]] == ["capgd", "mutate"]
    assert 0 < record["robust_accuracy"] < record["clean_accuracy"]
    distances = CliRunner().invoke(app, [*arguments, "--distances"])
    assert "distances know no units" in str(distances.exception)
    features.write_text(features.read_text().replace("features.b", "features.c"))
    wrong = CliRunner().invoke(app, arguments)
    assert isinstance(wrong.exception, ConfigError)
    assert "list 'c' where the data has 'b'" in str(wrong.exception)


def adder() -> nn.Module:
    """Return the exact classifier of the table."""
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        net.bias.copy_(torch.tensor([9.5, 0.0]))
    return net.eval()


def test_a_run_configuration_holds_its_features() -> None:
    text = 'threat.norm = "l2"\nthreat.eps = 0.5\n[features.age]\ntype = "int"\nmutable = true\nmin = 0\nmax = 120\n'
    config = Config.from_dict(parse_toml(text))
    threat = configured_threat(config)
    assert threat.rules.integer == (0,)
    assert Config.from_dict(parse_toml(config.to_toml())) == config
    assert "features" not in Config().to_toml()


def test_columns_that_do_not_fit_raise() -> None:
    with pytest.raises(ConfigError, match="give one a column"):
        parse().threat("l2", 1.0, torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.toml", None, "cannot read"),
        ("none.csv", None, "cannot read"),
        ("folder.toml", "folder", "cannot read"),
        ("f.toml", "[features.age", "is not TOML"),
        ("f.csv", b"\xff", "not UTF-8"),
    ],
)
def test_files_that_cannot_be_read_raise_one_line(
    tmp_path: Path, name: str, text: str | bytes | None, words: str
) -> None:
    path = tmp_path / name
    if text == "folder":
        path.mkdir()
    elif text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        read_features(path)
    assert "\n" not in str(caught.value)


def test_rows_outside_the_limits_of_a_feature_raise() -> None:
    table = parse(max=30)
    assert table.threat("l2", 1.0, torch.tensor([[0.0], [30.01]])).scale is not None
    with pytest.raises(ConfigError, match=r"age spans \[18, 36\] in the data, outside its min 0 and max 30"):
        table.threat("l2", 1.0, torch.tensor([[18.0], [36.0]]))


def test_a_box_beside_features_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "features.toml"
    path.write_text("[features.age]\nmutable = true\nmin = 0\nmax = 9\n")
    options = ["--data", "csv:t.csv?label=b", "--threat", "l2:1", "--features", str(path), "--box", "0,1"]
    found = CliRunner().invoke(app, ["evaluate", "zoo:mlp", *options])
    assert isinstance(found.exception, ConfigError)
    assert "leave the box out" in str(found.exception)


RUN = """
features = "features.toml"
[model]
name = "zoo:mlp"
options = {{ features = 2, classes = 2, mean = [4.5, 4.5], std = [3.0, 3.0] }}
[data]
name = "csv:{table}?label=label"
validation = 10
[threat]
norm = "linf"
eps = 2
[attack]
name = "pgd"
steps = 2
[recipe]
name = "madry"
[optimizer]
name = "adam"
lr = 0.02
[train]
epochs = 1
batch_size = 8
validation_steps = 1
device = "cpu"
guard = "off"
out = "{out}"
"""


def write_run(folder: Path) -> Path:
    table, _ = write_table(folder)
    path = folder / "run.toml"
    path.write_text(RUN.format(table=table, out=folder / "run"))
    return path


def test_a_run_carries_its_features_to_every_verb(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    assert CliRunner().invoke(app, ["train", str(path), "--json"]).exit_code == 0
    (tmp_path / "features.toml").unlink()
    run = str(tmp_path / "run")
    found = CliRunner().invoke(app, ["evaluate", run, "-n", "8", "--curve", "2", "--json"])
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout.strip().splitlines()[-1])
    assert [each["name"] for each in record["by_attack"]] == ["capgd", "mutate"]
    curve = record["curve"]
    assert [point["eps"] for point in curve["points"]] == [2.0]
    assert curve["points"][-1]["robust_accuracy"] == record["robust_accuracy"]
    assert curve["features"] == record["threat"]["features"]
    diagnosed = CliRunner().invoke(app, ["diagnose", run, "--quick", "-n", "8", "--json"])
    assert diagnosed.exit_code in (0, 1), diagnosed.output
    claim = json.loads(diagnosed.stdout.strip().splitlines()[-1])["claim"]
    assert claim == record["protocol"]
    loose = CliRunner().invoke(app, ["evaluate", run, "--threat", "linf:2@0,9"])
    assert "min and max each" in str(loose.exception)


def test_training_points_keep_the_rules() -> None:
    x = loans(64)
    threat, net = loan_threat("l2", 1.5), nn.Linear(12, 2)
    for attack in (attacks.craft, trades_pgd):
        points = attack(net, x, torch.zeros(64, dtype=torch.long), threat, steps=3).x_adv
        assert not violations(points, x, "l2", 1.5).any()
        assert not torch.equal(points, x)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["attack.name=n-fgsm"], "attack.name = 'n-fgsm'"),
        (["recipe.name=free", "attack.name=none"], "recipe.name = 'free'"),
        (["data.augment=flip"], "data.augment"),
        (["data.name=csv:t.csv?label=a&scale=std"], "scale= in data.name"),
        (["features.a.min=3"], r"a spans \[0, 9\] in the data, outside its min 3"),
        (["features.b.mutable=?"], "undecided"),
        (["features.b.mutabel=true"], "Did you mean 'mutable'"),
    ],
)
def test_what_features_cannot_go_with_raises_before_training(tmp_path: Path, changes: list[str], words: str) -> None:
    path = write_run(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        prepare(Config.load(path).replace_with(changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("../f.toml", "beside run.toml"), ("none.toml", "cannot read")])
def test_a_file_of_features_lies_beside_its_run(tmp_path: Path, text: str, words: str) -> None:
    path = write_run(tmp_path)
    path.write_text(path.read_text().replace('"features.toml"', f'"{text}"'))
    with pytest.raises(ConfigError, match=words):
        Config.load(path)


def test_a_run_trains_at_a_ratio_to_each_signal(tmp_path: Path) -> None:
    changes = ["threat.norm=snr", "threat.eps=20", "threat.box=[-9,9]", "attack.name=pgd", "recipe.name=madry"]
    config = Config().replace_with(changes)
    assert configured_threat(config) == ThreatModel.parse("snr:20@-9,9")
    assert Config.from_dict(parse_toml(config.to_toml())) == config
    fixed = ["attack.name=n-fgsm"], ["recipe.name=free", "attack.name=none"]
    for wrong in (*fixed, ["features.a.min=0"], ["threat.scale=[1.0]"]):
        with pytest.raises(ConfigError, match="cannot go with"):
            Config().replace_with([*changes, *wrong])
    x = torch.randn(6, 1, 16, generator=torch.Generator().manual_seed(0))
    points = attacks.craft(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), x, torch.zeros(6).long(), configured_threat(config)
    )
    assert bool(configured_threat(config).contains(points.x_adv, x).all())


def test_a_box_of_grey_levels_is_rejected_on_8_bit_images() -> None:
    _, test = load_data("mnist")
    with pytest.raises(
        DataError, match=r"box is \[0, 255\] and mnist holds 8-bit images in \[0, 1\]; leave the box out"
    ):
        evaluate(nn.Flatten(), test, "linf:8@0,255", n=4)


def test_a_curve_of_ratios_is_given_in_decibels(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 1, 8, generator=g)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)).eval()
    data = x, net(x).argmax(1)
    found = robustness_curve(net, data, norm=ThreatModel.parse("snr:10@-9,9"), eps=parse_radii("20,0", "snr"))
    assert [round(point.eps, 6) for point in found.points] == [0.1, 1.0]
    for point in found.points:
        single = evaluate(net, data, ThreatModel.parse("snr:10@-9,9").with_eps(point.eps))
        assert single.robust_accuracy == point.robust_accuracy
    with pytest.raises(ThreatError, match="leave box out"):
        robustness_curve(net, data, norm=ThreatModel("l2", 1.0), eps=[1.0], box=(0, 1))
