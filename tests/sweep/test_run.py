"""Sweeps of small networks: resumed after a kill, stopped early, shared by two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advreg.cli.app import app
from advreg.errors import ConfigError, RunError
from advreg.sweep import Sweep, SweepPlan, parse_keys, run_sweep
from advreg.sweep.trials import LOG
from advreg.trainer.events import Checkpointed
from tests import processes
from tests.training import small

OPTIONS = SweepPlan(seeds=(0, 1), budget=0.05, early_stop=False)
KEYS = ["recipe.options.ratio=0.5,1"]


def config(data, tmp_path, *changes):
    return small.config(
        data, tmp_path / "unused", "recipe.name=mixed", "train.epochs=2", "data.validation=40", *changes
    )


def figures(sweep):
    names = ("setting", "seed", "state", "clean_accuracy", "robust_accuracy", "forwards", "backwards", "curve")
    return [{name: row[name] for name in names} for row in sweep.record["rows"]]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return run_sweep(config(data, folder), parse_keys(KEYS), OPTIONS, out=folder / "whole", trust_code=True)


def test_a_grid_trains_every_setting_with_every_seed(whole):
    found = [(row["setting"], row["seed"]) for row in whole.record["rows"]]
    settings = [{}, {"recipe.options.ratio": "0.5"}, {"recipe.options.ratio": "1"}]
    assert found == [(setting, seed) for setting in settings for seed in (0, 1)]
    assert {row["n"] for row in whole.record["rows"]} == {40}
    assert all((whole.path / row["run"] / "model.safetensors").is_file() for row in whole.record["rows"])
    assert [each["forwards"] for each in whole.settings] == [320, 640, 960], "PGD-2 on none, half and all of 80 images"


@pytest.mark.parametrize(("place", "epoch"), [(1, 1), (4, 2)])
def test_a_killed_sweep_ends_with_the_same_figures(data, tmp_path, whole, place, epoch):
    def kill(progress):
        if progress.place == place and isinstance(progress.event, Checkpointed) and progress.event.epoch == epoch:
            raise KeyboardInterrupt

    call = config(data, tmp_path), parse_keys(KEYS), OPTIONS
    with pytest.raises(KeyboardInterrupt):
        run_sweep(*call, out=tmp_path / "cut", on_progress=kill)
    trained = []
    resumed = run_sweep(
        *call, out=tmp_path / "cut", on_progress=lambda p: p.event is None and p.row is None and trained.append(p.name)
    )
    assert len(trained) == 6 - (place - 1), "finished trainings are not repeated"
    assert figures(resumed) == figures(whole)
    again = run_sweep(*call, out=tmp_path / "cut", on_progress=lambda p: pytest.fail("nothing is left to train"))
    assert again.record == resumed.record == Sweep.open(tmp_path / "cut").record


def test_a_larger_grid_extends_a_finished_one(data, tmp_path):
    options = SweepPlan(plain=False, early_stop=False)
    call = config(data, tmp_path, "train.epochs=1")
    run_sweep(call, parse_keys(KEYS), options, out=tmp_path / "a")
    more = run_sweep(call, parse_keys(["recipe.options.ratio=0.5,0.75,1"]), options, out=tmp_path / "a")
    assert [row["setting"]["recipe.options.ratio"] for row in more.record["rows"]] == ["0.5", "1", "0.75"]
    with pytest.raises(RunError, match="other configuration"):
        run_sweep(call.replace_with(["train.epochs=2"]), parse_keys(KEYS), options, out=tmp_path / "a")


def test_every_setting_is_attacked_at_the_eps_of_the_sweep(data, tmp_path):
    keys = parse_keys(["threat.eps=0.01,0.05"])
    options = SweepPlan(plain=False, early_stop=False)
    found = run_sweep(config(data, tmp_path, "train.epochs=1"), keys, options, out=tmp_path / "a")
    assert {row["protocol"].partition("@")[0] for row in found.record["rows"]} == {"linf-0.05-quick"}


def test_what_learns_nothing_is_stopped_and_has_no_figures(data, tmp_path):
    changes = ("model.name=tests.training.small:constant", "train.epochs=33", "attack.steps=1")
    found = run_sweep(
        config(data, tmp_path, *changes),
        parse_keys(["recipe.options.ratio=1"]),
        SweepPlan(plain=False),
        out=tmp_path / "a",
    )
    row = found.record["rows"][0]
    assert (row["state"], row["clean_accuracy"]) == ("stopped", None)
    assert len(row["curve"]) < 33
    assert (tmp_path / "a" / LOG).is_file()


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        ([], [], "has no key"),
        (["seed=1,2"], [], "give --seeds"),
        (["recipe.options.ration=1"], [], "has no option 'ration'"),
        (["train.epoch=1"], [], "unknown key 'epoch'"),
        (["recipe.options.ratio=1"], ["data.validation=0"], "data.validation is 0"),
    ],
)
def test_mistakes_are_found_before_the_first_training(data, tmp_path, keys, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        run_sweep(config(data, tmp_path, *changes), parse_keys(keys), out=tmp_path / "a")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a" / "runs").exists()


def test_the_verb_prints_table_page_and_recommendation(data, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(config(data, tmp_path, "train.epochs=1").to_toml())
    out = tmp_path / "out"
    call = [
        "sweep",
        str(file),
        "--key",
        "recipe.options.ratio=0.5,1",
        "--out",
        str(out),
        "--trust-code",
        "--no-early-stop",
    ]
    done = CliRunner().invoke(app, [*call, "--clean-budget", "0.5"])
    assert done.exit_code == 0, done.output
    assert "ecommended: ratio" in done.output or "No setting is recommended" in done.output
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert len((out / "sweep.csv").read_text().splitlines()) == 4
    again = CliRunner().invoke(app, [*call, "--clean-budget", "0.5", "--json"])
    assert json.loads(again.stdout)["rows"] == json.loads((out / "sweep.json").read_text())["rows"]
    secret = CliRunner().invoke(app, [*call, "--storage", "postgresql://a:b@localhost/c"])
    assert isinstance(secret.exception, ConfigError)
    assert "password on the command line" in str(secret.exception)


def test_a_search_resumes_its_interrupted_trial(data, tmp_path):
    pytest.importorskip("optuna", reason="searches need advreg[sweep]")
    options = SweepPlan(trials=3, plain=False, early_stop=False)
    call = (
        config(data, tmp_path, "train.epochs=2"),
        parse_keys(["recipe.options.ratio=0.1..1.0", "optimizer.lr=1e-3..1e-1"]),
    )

    def kill(progress):
        if progress.place == 2 and isinstance(progress.event, Checkpointed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(*call, options, out=tmp_path / "a", on_progress=kill)
    names = [path.name for path in (tmp_path / "a" / "runs").iterdir()]
    found = run_sweep(*call, options, out=tmp_path / "a")
    assert len(found.record["rows"]) == 3
    assert {Path(row["run"]).name for row in found.record["rows"]} > set(names), "the interrupted one went on"
    for row in found.record["rows"]:
        assert 0.1 <= float(row["setting"]["recipe.options.ratio"]) <= 1.0
        assert 1e-3 <= float(row["setting"]["optimizer.lr"]) <= 1e-1
    more = run_sweep(*call, SweepPlan(trials=4, plain=False, early_stop=False), out=tmp_path / "a")
    assert len(more.record["rows"]) == 4


def test_two_processes_share_a_grid_in_postgresql(data, tmp_path, postgres):
    pytest.importorskip("optuna", reason="a shared storage needs advreg[sweep]")
    file = tmp_path / "run.toml"
    file.write_text(config(data, tmp_path, "train.epochs=1").to_toml())
    url = postgres.new_database()
    options = ("--storage", url, "--trust-code", "--json", "--no-plain", "--no-early-stop")
    call = ("sweep", file, "--key", "recipe.options.ratio=0.2,0.4,0.6,0.8", *options)
    workers = [processes.start(*call, "--out", tmp_path / name) for name in ("one", "other")]
    assert [worker.wait() for worker in workers] == [0, 0], [worker.stderr for worker in workers]
    last = max((json.loads(worker.stdout) for worker in workers), key=lambda record: len(record["rows"]))
    assert sorted(row["setting"]["recipe.options.ratio"] for row in last["rows"]) == ["0.2", "0.4", "0.6", "0.8"]
    trained = [{path.name for path in (tmp_path / name / "runs").glob("*")} for name in ("one", "other")]
    assert not trained[0] & trained[1], "no setting is trained twice"
    assert len(trained[0] | trained[1]) == 4
