"""The command line as a user sees it: exit status, one line on standard error, never a traceback."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from advreg import ThreatModel
from advreg.cli import completion
from advreg.cli.app import app
from advreg.cli.resolution import ModelSource
from advreg.config import Config
from advreg.data import load, loading
from advreg.evaluation import PROTOCOLS
from advreg.models.zoo import NAMES
from advreg.training.setup import prepare

from . import processes
from .report.fake_run import results, write_evaluation

ESCAPE = "\x1b"
COLOUR = r"\x1b\[[0-9;]*(3|4|9)[0-7]"


advreg = processes.run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small network trained for one epoch on few images, through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    train, test = load("mnist")
    arrays = {"x": train.images[:600].numpy(), "y": train.labels[:600].numpy()}
    np.savez(folder / "few.npz", **arrays, x_test=test.images[:60].numpy(), y_test=test.labels[:60].numpy())
    (folder / "run.toml").write_text(
        f'[model]\nname = "zoo:mnist-small"\n[data]\nname = "npz:{folder}/few.npz"\nvalidation = 50\n'
        '[optimizer]\nname = "adam"\nlr = 0.003\n'
        f'[threat]\neps = 0.1\n[train]\nepochs = 1\nout = "{folder}/run"\n'
    )
    done = advreg("train", folder / "run.toml")
    assert done.returncode == 0, done.stderr
    assert "next: advreg evaluate" in done.stdout
    return folder / "run"


def test_train_evaluate_report_compare(run: Path) -> None:
    found = advreg("evaluate", run, "--protocol", "basic", "--curve", "0,0.05,1/10", "--json")
    assert found.returncode == 0, found.stderr
    record = json.loads(found.stdout)
    assert record["n"] == 60
    assert [p["eps"] for p in record["curve"]["points"]] == pytest.approx([0, 0.05, 0.1])
    table = advreg("evaluate", run, "--protocol", "basic")
    assert "pgd-40" in table.stdout
    assert "attack success rate" in table.stdout
    assert not re.search(r"[\r\x1b━]", table.stdout + table.stderr)  # no terminal: no colour, no bar
    page = advreg("report", run)
    assert Path(page.stdout.strip()).read_text().lstrip().lower().startswith("<!doctype html>")
    side = advreg("compare", run, run, "--json")
    assert json.loads(side.stdout)[0]["protocol"] == "linf-0.1-basic@2"


def test_evaluate_measures_corruptions(run: Path) -> None:
    options = ("--protocol", "fgsm", "--corruptions", "fog,contrast", "--severities", "1,5")
    found = advreg("evaluate", run, *options)
    assert found.returncode == 0, found.stderr
    assert "severity 5" in found.stdout
    assert "mean corruption accuracy" in found.stdout
    record = json.loads(next(run.glob("evaluation/*-fgsm@*/corruptions.json")).read_text())
    assert [row["name"] for row in record["corruptions"]] == ["fog", "contrast"]
    assert "Accuracy under common corruptions" in (run / "report.html").read_text()


def test_threat_takes_its_box_from_option_or_run(run: Path) -> None:
    found = advreg("evaluate", run, "--protocol", "fgsm", "--threat", "linf:0.1@-1,2", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["threat"] == {"norm": "linf", "eps": 0.1, "box": [-1.0, 2.0]}
    config = Config.load(run / "run.toml").replace_with(["threat.box=[-1, 2]"])
    assert (
        ModelSource("run", run, config).threat(None)
        == ModelSource("zoo:mnist-small").threat("linf:0.1@-1,2")
        == ThreatModel("linf", 0.1, (-1.0, 2.0))
    )
    assert prepare(config).threat.box == (-1.0, 2.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "zoo:mnist-cn", "--data", "mnist", "--threat", "linf:0.1"], "Did you mean 'mnist-cnn'"),
        (["evaluate", "zoo:mnist-cnn", "--data", "mnits", "--threat", "linf:0.1"], "mnist"),
        (["evaluate", "zoo:mnist-cnn", "--data", "mnist"], "add --threat"),
        (["evaluate", "zoo:mnist-cnn", "--threat", "linf:0.1"], "add --data"),
        (["evaluate", "zoo:mnist-cnn", "--data", "mnist", "--threat", "linf:80"], "wider than the box"),
        (
            ["evaluate", "zoo:mnist-cnn", "--data", "mnist", "--threat", "linf:0.1", "--corruptions", "fogg"],
            "Did you mean 'fog'",
        ),
        (["train", "nowhere.toml"], "nowhere.toml"),
        (["report", "nowhere"], "nowhere"),
        (["evaluate", "runs/nope", "--data", "mnist"], "no run folder at runs/nope; give one that"),
        (["evaluat"], "No such command 'evaluat'. Did you mean 'evaluate'? See advreg --help"),
        (["evaluate", "zoo:mnist-cnn", "--treat", "linf:0.1"], "--threat). See advreg evaluate --help"),
        (["evaluate", "zoo:mnist-cnn", "-n", "ten"], "integer"),
        (["evaluate"], "Missing argument"),
    ],
)
def test_wrong_use_is_one_line_and_status_two(arguments: list[str], words: str) -> None:
    found = advreg(*arguments)
    assert found.returncode == 2
    assert words in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_existing_run_is_rejected_and_unchanged(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    found = advreg("train", run.parent / "run.toml")
    assert found.returncode == 2
    assert "resume" in found.stderr
    assert {file: file.read_bytes() for file in before} == before


def test_help_names_every_verb() -> None:
    found = advreg("--help")
    for verb in ("demo", "train", "evaluate", "report", "compare", "doctor"):
        assert verb in found.stdout


def test_help_imports_no_torch_and_is_fast() -> None:
    """Processor time of the process and its children: wall time would measure the load of the machine."""
    count = "import sys; from advreg.cli.app import app; print('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", count], capture_output=True, text=True).stdout.strip() == "False"
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "advreg", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(spent) < 0.3, spent


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --command")]
)
def test_completion_supports_common_shells(shell: str, words: str) -> None:
    script = completing({"_ADVREG_COMPLETE": f"source_{shell}"})
    assert words in script
    assert "advreg" in script


@pytest.mark.parametrize(
    ("words", "proposed"), [("advreg eva", ["evaluate"]), ("advreg evaluate --protocol sta", ["standard"])]
)
def test_completion_knows_verbs_and_values(words: str, proposed: list[str]) -> None:
    place = str(len(words.split()) - 1)
    environment = {"_ADVREG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
    assert completing(environment).split() == proposed


def test_completion_knows_every_name_and_the_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(PROTOCOLS) == completion.PROTOCOLS
    assert completion.NETWORKS == NAMES
    assert set(completion.DATA) == set(loading._NAMED)
    for name in ("runs/one", "runs/sweep/two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert completion.models("runs/") == ["runs/one", "runs/sweep/two"]


def test_help_has_an_example_and_no_python_types() -> None:
    for verb in ("train", "evaluate", "diagnose", "attack"):
        shown = CliRunner().invoke(app, [verb, "--help"]).output
        assert f"Example: advreg {verb} " in shown
        options = shown.partition("Options")[2].replace("--help", "").partition("Show this message")[0]
        assert not re.search(r"<(str|int|float|path)>", options)


def completing(environment: dict[str, str]) -> str:
    """Return the output of the installed program for the completion of a shell."""
    program = Path(sys.executable).with_name("advreg")
    found = subprocess.run([program], capture_output=True, text=True, env=os.environ | environment, timeout=60)
    assert "Traceback" not in found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "net"
    write_evaluation(folder, results("linf-0.1-quick@2", "linf", 0.1, 0.5), shown=0)
    return folder


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}])
def test_piped_output_has_no_colour(measured: Path, environment: dict[str, str]) -> None:
    found = advreg("compare", measured, environment=environment)
    assert found.returncode == 0
    assert ESCAPE not in found.stdout + found.stderr
    assert found.stderr == ""


def test_no_color_removes_colour_on_a_terminal(measured: Path) -> None:
    plain, coloured = on_terminal("--help", no_color=True), on_terminal("--help", no_color=False)
    assert re.search(COLOUR, coloured)
    assert not re.search(COLOUR, plain)
    assert not re.search(COLOUR, on_terminal("compare", measured, no_color=True))


def on_terminal(*arguments: object, no_color: bool) -> str:
    """Return the output of the command line on a terminal."""
    near, far = pty.openpty()
    others = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "CI", "TERM")}
    environment = others | {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_color else {})
    command = [sys.executable, "-m", "advreg", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=far, stdout=far, stderr=far, env=environment)
    os.close(far)
    written = b""
    while True:
        try:
            part = os.read(near, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(near)
    assert process.wait(60) == 0
    return written.decode()
