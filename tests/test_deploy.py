"""The examples in deploy/: the files parse, and their commands, in miniature, leave the run that they promise."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from advreg import load_model
from advreg.cli.app import app

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
SMALL = {"-n": "24", "--protocol": "fgsm"}  # options of a miniature
MODEL = ["zoo:mnist-small", "--data", "mnist", "--threat", "linf:0.1"]


def kubernetes() -> tuple[list[str], list[str]]:
    shards, merge = (document["spec"] for document in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert shards["completionMode"] == "Indexed"
    assert shards["completions"] == shards["parallelism"] == 64
    first, second = (job["template"]["spec"]["containers"][0]["args"] for job in (shards, merge))
    return [each.replace("$(JOB_COMPLETION_INDEX)/64", "K/N") for each in first], second


def slurm() -> tuple[list[str], list[str]]:
    text = (DEPLOY / "slurm.sh").read_text()
    assert re.search(r"^#SBATCH --array=0-63$", text, re.M)
    merge = re.search(r'--wrap "advreg (.*)"', text)
    return command_of(text.replace("$SLURM_ARRAY_TASK_ID/64", "K/N")), shlex.split(merge[1])


def skypilot() -> tuple[list[str], list[str]]:
    text = (DEPLOY / "skypilot.yaml").read_text()
    task = yaml.safe_load(text)
    assert task["num_nodes"] == 8
    run = task["run"].replace("$SKYPILOT_NODE_RANK/$SKYPILOT_NUM_NODES", "K/N")
    merge = re.search(r"advreg (merge .*?)\s+#", text)
    return command_of(run), shlex.split(merge[1])


def command_of(text: str) -> list[str]:
    """Return the arguments of the one command of advreg in a script."""
    (line,) = re.findall(r"^\s*advreg (.*)$", text, re.M)
    return shlex.split(line)


def in_miniature(arguments: list[str], place: Path, shard: str) -> list[str]:
    """Return a command on a few images: its model, folders and counts are replaced, its options are not."""
    small = [*arguments[:1], *MODEL, *arguments[2:]]
    for option, value in (SMALL | {"--out": str(place / "parts"), "--shard": shard}).items():
        small[small.index(option) + 1] = value
    return small


def test_commands_of_all_deployments_are_the_same_in_miniature(tmp_path) -> None:
    """So that it is enough to run one of them."""
    commands = [in_miniature(read()[0], tmp_path, "0/2") for read in (kubernetes, slurm, skypilot)]
    assert commands[0] == commands[1] == commands[2]
    merges = [read()[1] for read in (kubernetes, slurm, skypilot)]
    assert [(merge[0], merge[2], len(merge)) for merge in merges] == [("merge", "--out", 4)] * 3


def test_shards_of_a_deployment_merge_into_one_run(tmp_path) -> None:
    torch.manual_seed(0)
    save_file(load_model("zoo:mnist-small").state_dict(), tmp_path / "net.safetensors")
    evaluate, merge = kubernetes()
    for number in range(2):
        small = in_miniature(evaluate, tmp_path, f"{number}/2")
        done = CliRunner().invoke(app, [*small, "--weights", str(tmp_path / "net.safetensors")])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, [merge[0], str(tmp_path / "parts"), merge[2], str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert list(tmp_path.glob("run/evaluation/linf-0.1-fgsm@2/results.json"))
    assert (tmp_path / "run" / "report.html").exists()


def test_ray_example_names_an_engine_of_the_command_line() -> None:
    arguments = command_of((DEPLOY / "ray.sh").read_text())
    assert arguments[arguments.index("--engine") + 1] == "ray"
    done = CliRunner().invoke(app, [arguments[0], *MODEL, "-n", "24", "--engine", "cloud"])
    assert "engine is 'cloud'; allowed: local, ray" in str(done.exception)
