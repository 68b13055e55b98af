"""What follows from the rows of a sweep: means, intervals, frontier, recommendation, early stop."""

from __future__ import annotations

import csv
import io
import itertools

import pytest

from advreg.errors import ConfigError
from advreg.pareto import mean_over_seeds
from advreg.report.sweep_page import recommendation, sweep_page
from advreg.statistics import clopper_pearson_interval
from advreg.sweep import Sweep, early_stop, space, summary
from advreg.trainer.events import Checkpointed, Guarded


def row(value, clean, robust, seed=0, **more):
    setting = {} if value is None else {"recipe.options.ratio": value}
    return {
        "name": str(value), "setting": setting, "seed": seed, "run": "runs/x", "state": summary.COMPLETE, "why": "",
        "clean_accuracy": clean, "robust_accuracy": robust, "n": 200, "protocol": "linf-0.1-quick@1", "curve": [],
        "forwards": 10, "backwards": 5, "processor_seconds": 1.0, **more,
    }  # fmt: skip


ROWS = [
    row(None, 0.98, 0.01),
    row("0.1", 0.975, 0.4),
    row("0.3", 0.972, 0.5),
    row("0.5", 0.971, 0.45),
    row("1", 0.9, 0.7),
]


@pytest.mark.parametrize("budget", [0.0, 0.005, 0.008, 0.05, 0.2])
def test_recommendation_is_the_brute_force_optimum(budget):
    found = summary.summarize(ROWS, budget)
    within = [r for r in ROWS if r["clean_accuracy"] >= 0.98 - budget]
    best = max(within, key=lambda r: r["robust_accuracy"])
    if best["setting"]:
        assert found["settings"][found["recommended"]]["setting"] == best["setting"]
    else:
        assert (found["recommended"], found["settings"][found["nearest"]]["name"]) == (None, "0.1")


def test_frontier_holds_what_no_setting_dominates():
    found = summary.summarize(ROWS, 0.01)
    assert [found["settings"][k]["name"] for k in found["frontier"]] == ["None", "0.1", "0.3", "1"]


def test_one_seed_has_an_exact_interval_and_several_students():
    alone = summary.summarize(ROWS, 0.01)["settings"][1]["robust_accuracy"]
    assert alone["interval"] == list(clopper_pearson_interval(80, 200))
    several = summary.summarize([row("1", 0.9, r, seed=k) for k, r in enumerate((0.6, 0.7, 0.8))], 0.01)["settings"]
    assert len(several) == 1
    assert several[0]["robust_accuracy"]["interval"] == mean_over_seeds([0.6, 0.7, 0.8])["interval"]
    assert several[0]["forwards"] == 30


def test_a_setting_with_a_stopped_seed_has_no_figures():
    rows = [*ROWS, row("0.7", 0.9, 0.9), row("0.7", None, None, seed=1, state=summary.STOPPED, why="hopeless")]
    found = summary.summarize(rows, 0.5)
    last = found["settings"][-1]
    assert (last["clean_accuracy"], last["state"], last["why"]) == (None, "stopped", "hopeless")
    assert found["settings"][found["recommended"]]["name"] == "1"


CURVE = [[0.5, 0.1], [0.8, 0.4], [0.9, 0.5], [0.9, 0.6], [0.9, 0.6], [0.9, 0.6]]


@pytest.mark.parametrize(
    ("epoch", "now", "stops"),
    [
        (2, (0.7, 0.3), True),
        (2, (0.9, 0.3), False),  # more accurate on clean images: another point of the trade-off
        (2, (0.7, 0.5), False),
        (1, (0.1, 0.0), False),  # before a third of the training
    ],
)
def test_early_stop_needs_both_accuracies_below_the_median(epoch, now, stops):
    rows = [row("1", 0.9, 0.6, curve=CURVE)] * 3
    assert (early_stop.below_median(rows, epoch, 6, now) is not None) == stops
    assert early_stop.below_median(rows[:2], epoch, 6, now) is None, "two trials are no comparison"
    record = {"clean_accuracy": now[0], "robust_accuracy": now[1]}
    event = Checkpointed(epoch, 6, 5, 5, record)
    early_stop.EarlyStop(rows, compares=False)(event)
    if stops:
        with pytest.raises(early_stop.HopelessTrial, match="below the medians"):
            early_stop.EarlyStop(rows, compares=True)(event)


def test_early_stop_ends_what_learns_nothing_unless_it_was_restarted():
    stop = early_stop.EarlyStop([], compares=True)
    stop(Guarded(1, 1, "not learning", "constant", "restarted from the initial weights"))
    with pytest.raises(early_stop.HopelessTrial, match="constant"):
        stop(Guarded(1, 1, "not learning", "constant", "none: lower"))


def test_a_grid_is_the_product_of_its_values():
    keys = space.parse_keys(["a.b=1,2", "c.d=[1,2],[3]", "e=x"])
    expected = [{"a.b": b, "c.d": d, "e": "x"} for b, d in itertools.product(("1", "2"), ("[1,2]", "[3]"))]
    assert space.grid(keys) == expected
    assert len({space.setting_name(each) for each in expected}) == 4


@pytest.mark.parametrize("text", ["a.b", "a.b=", "=1", "a.b=1,,2", "a.b=1..x", "a.b=2..1"])
def test_wrong_keys_are_one_line(text):
    with pytest.raises(ConfigError) as error:
        space.parse_keys([text])
    assert "\n" not in str(error.value)


def test_a_grid_rejects_intervals_and_keys_given_twice():
    with pytest.raises(ConfigError, match="--trials N"):
        space.grid(space.parse_keys(["a.b=1..2"]))
    with pytest.raises(ConfigError, match="is given twice"):
        space.parse_keys(["a.b=1", "a.b=2"])


@pytest.fixture
def record():
    return {
        "keys": ["recipe.options.ratio"], "threat": "linf:0.1", "budget": 0.01, "command": "advreg sweep run.toml",
        "rows": ROWS, **summary.summarize(ROWS, 0.01),
    }  # fmt: skip


def test_the_page_names_recommendation_and_every_setting(record):
    page = sweep_page(record)
    assert recommendation(record).startswith("Recommended: ratio 0.3, the highest robust accuracy of 4 trainings")
    assert recommendation(record) in page.replace("&#39;", "'")
    for name in ("plain", "ratio 0.1", "ratio 0.3", "ratio 0.5", "ratio 1"):
        assert f"{name}" in page
    assert "advreg sweep run.toml" in page
    assert "<script>" in page
    assert 'src="http' not in page


def test_csv_has_a_line_for_each_training_and_the_plot_every_setting(record, tmp_path):
    sweep = Sweep(tmp_path, record)
    lines = list(csv.DictReader(io.StringIO(sweep.to_csv(tmp_path / "a.csv"))))
    assert [line["recipe.options.ratio"] for line in lines] == ["", "0.1", "0.3", "0.5", "1"]
    assert (tmp_path / "a.csv").read_text() == sweep.to_csv()
    assert {text.get_text() for text in sweep.plot().texts} >= {"plain", "ratio 0.3", "ratio 1"}
    assert sweep.recommended is not None
    assert sweep.recommended["name"] == "0.3"
