"""Training of other tasks from run.toml: recipes, the best checkpoint by the task's score, and verbs that follow the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import models, tasks
from advreg.cli.certify import CertifyOptions, run_certify
from advreg.cli.diagnose import DiagnoseOptions, run_diagnose
from advreg.cli.evaluate import EvaluateOptions, run_evaluate
from advreg.cli.plan import PlanOptions, run_plan
from advreg.config import Config
from advreg.config.compatibility import WITH_TASKS
from advreg.config.task import configured_task
from advreg.data import load_targets
from advreg.errors import AdvregError
from advreg.runs import RunFolder
from advreg.trainer.moment import Moment
from advreg.training import prepare
from advreg.training.setup import split_data
from advreg.training.step import take_step
from advreg.training.task_scores import detect_constant_outputs, measure_learning

NETWORKS = """
from torch import nn
import torch
from advreg import models, tasks


class Similarity(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 6)

    def forward(self, x):
        return torch.cosine_similarity(self.embed(x[:, 0]), self.embed(x[:, 1]), dim=1)[:, None]


def number(): return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
def labels(): return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
def binary(): return models.one_logit(number())
def pixels(): return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
def same(): return Similarity()
def close(tolerance): return tasks.number(tolerance)
"""
TASKS = {
    "number": ["task.options.tolerance=0.3"],
    "labels": ["task.options.score=share"],
    "binary": [],
    "pixels": [],
    "pairs": ["task.options.threshold=0.5"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "task_networks.py").write_text(NETWORKS)
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    masks = (torch.arange(16).view(1, 4, 4) + torch.arange(30).view(-1, 1, 1)) % 3
    images = torch.eye(3)[masks].permute(0, 3, 1, 2)
    twins = torch.stack([x, torch.where(torch.arange(60)[:, None] % 2 == 0, x, x.flip(0))], 1)
    for name, inputs, targets in (
        ("number", x, x[:, 0] - x[:, 1]),
        ("labels", x, (x[:, :3] > 0.5).long()),
        ("binary", x, (x[:, 0] > 0.5).long()),
        ("pixels", (255 * images).byte(), masks),
        ("pairs", twins, (torch.arange(60) % 2 == 0).long()),
    ):
        np.savez(tmp_path / f"{name}.npz", x=inputs.numpy(), y=targets.numpy())
    return tmp_path


def config(task: str, *changes: str, recipe: str = "madry") -> Config:
    attack = "none" if recipe in ("standard", "gaussian", "free") else "pgd"
    network = {"pairs": "same"}.get(task, task)
    named = [] if task == "binary" else [f"task.name={task}"]
    settings = [
        f"model.name=task_networks:{network}", f"data.name=npz:{task}.npz", "data.validation=10", "threat.eps=0.05",
        f"recipe.name={recipe}", f"attack.name={attack}", "attack.steps=2", "optimizer.name=adam", "optimizer.lr=0.02",
        "train.epochs=2", "train.batch_size=16", "train.validation_steps=2", "train.device=cpu", "train.out=run",
    ]  # fmt: skip
    return Config().replace_with([*named, *TASKS[task], *settings, *changes])


def best(run: RunFolder) -> dict[str, float]:
    lines = [line for line in run.read_log("metrics.jsonl") if "event" not in line]
    return max(lines, key=lambda line: (line["robust_accuracy"] or 0.0, line["clean_accuracy"]))


def held_out(made: Config) -> tuple[Tensor, Tensor]:
    held = split_data(made)[1]
    assert held is not None
    return held.tensors()


@pytest.mark.parametrize("task", TASKS)
def test_the_best_checkpoint_has_the_score_in_the_log(folder: Path, task: str) -> None:
    made = config(task, recipe={"labels": "trades", "pixels": "mixed"}.get(task, "madry"))
    run = advreg.fit(made, trust_code=True)
    (x, y), chosen = held_out(made), configured_task(made)
    model = models.load(str(run.path)).eval()
    with torch.no_grad():
        score = chosen.rate(model(x), y).double().mean()
    record = best(run)
    assert float(score) == pytest.approx(record["clean_accuracy"], abs=1e-6)
    assert 0 <= record["robust_accuracy"] <= record["clean_accuracy"] + 1e-6
    assert 0 <= record["train_accuracy"] <= 1
    assert (run / "run.toml").read_text().count("[task]") == (task != "binary")


@pytest.mark.parametrize("recipe", WITH_TASKS)
def test_recipes_and_their_attacks_lower_the_loss_of_a_regression(folder: Path, recipe: str) -> None:
    made = prepare(config("number", recipe=recipe))
    batches, moment = [made.batches.first(40)] * 12, Moment(1, 0, 100)
    made.model.train()
    losses = [take_step(made, batch, moment).loss for batch in batches]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("attack", ["fgsm", "n-fgsm", "stored", "pgd"])
def test_inner_attacks_raise_the_loss_of_another_task(folder: Path, attack: str) -> None:
    made = prepare(
        config("number", f"attack.name={attack}", "threat.eps=0.2", *(["attack.start=gaussian"] * (attack == "pgd")))
    )
    batch, loss = made.batches.first(40), made.task.training_loss
    x_adv = made.attack(made.model, batch.x, batch.y, made.threat, objective=loss, seed=0, task=made.task).x_adv
    with torch.no_grad():
        clean, attacked = (float(loss(made.model(x), batch.y).mean()) for x in (batch.x, x_adv))
    assert attacked > clean


def test_a_resumed_run_of_a_task_ends_with_the_same_bytes(folder: Path) -> None:
    whole = advreg.fit(config("number", "train.out=whole"), trust_code=True)

    def stop(event: object) -> None:
        if getattr(event, "record", {}).get("epoch") == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advreg.fit(config("number", "train.out=part"), trust_code=True, on_event=stop)
    part = advreg.fit(config("number", "train.out=part"), resume=True, trust_code=True)
    assert (part / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def test_verbs_take_the_task_from_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advreg.fit(config("number", "train.epochs=1"), trust_code=True)
    run_evaluate(EvaluateOptions("run", protocol="fgsm", device="cpu", n=4))
    assert "number-0.3-linf-0.05-fgsm@1" in capsys.readouterr().out
    assert "in the task number-0.3" in Path("run/report.html").read_text()
    run_plan(PlanOptions(Path("run"), protocol="fgsm", n=4))
    assert "evaluation, number-0.3-linf-0.05-fgsm@1, 4 examples" in capsys.readouterr().out
    run_diagnose(DiagnoseOptions("run", n=4))
    assert "number-0.3-linf-0.05-quick@1 reports" in capsys.readouterr().out
    with pytest.raises(AdvregError, match="the task of run is 'number'") as caught:
        run_certify(CertifyOptions("run"))
    assert "\n" not in str(caught.value)


def test_a_factory_names_the_task_of_a_run(folder: Path) -> None:
    changes = ["task.name=task_networks:close", "task.options.tolerance=0.3"]
    made = prepare(config("number", *changes))
    assert made.task.name == "number-0.3"
    assert Config.from_dict(made.config.to_dict()).task == made.config.task


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("number", ["recipe.name=mart"], "recipe.name is 'mart', which is for classes"),
        ("number", ["policy.name=iaat"], "policy.name is 'iaat', which is for classes"),
        ("number", ["attack.objective=dlr"], "attack.objective is 'dlr', which is for classes"),
        ("pixels", ["data.augment=flip"], "moves images, not the targets of task 'pixels'"),
        ("pixels", ["task.name=pixel"], "Did you mean 'pixels'"),
        ("number", ["task.options.tolerance=0"], "give a number above 0"),
        ("number", ["task.options.tolerance='a'"], "tolerance is 'a'"),
        ("number", ["task.options.radius=1"], "has no option 'radius'"),
        ("number", ["recipe.options.label_smoothing=0.1"], "it is for classes: leave it out"),
        ("number", ["recipe.options.task='labels'"], "name the task in a section of its own"),
        ("labels", ["task.name=classes", "task.options={}"], "--task pixels, or [task] in run.toml"),
        ("pixels", ["task.name=labels"], "(B, L) both"),
        ("pixels", ["model.name=zoo:mnist-dnn"], "cannot take inputs"),
        ("pairs", ["recipe.name=trades"], "needs a divergence"),
    ],
)
def test_what_has_no_meaning_is_one_line(folder: Path, task: str, changes: list[str], words: str) -> None:
    with pytest.raises(AdvregError) as caught:
        prepare(config(task, *changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("run").exists()


def test_a_constant_network_is_reported_and_a_trained_one_is_not() -> None:
    task, x = tasks.number(0.1), torch.rand(64, 4)
    y = x[:, 0] + x[:, 1]
    net = nn.Linear(4, 1)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.fill_(1.0)
    assert detect_constant_outputs(measure_learning(net, x, y, task), 64, "at the end")
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        net.bias.zero_()
    assert detect_constant_outputs(measure_learning(net, x, y, task), 64, "at the end") is None


def test_tables_give_a_number_or_several_labels(tmp_path: Path) -> None:
    rows = "\n".join(f"{k},{k % 3},{k % 2},{k / 4}" for k in range(20))
    (tmp_path / "t.csv").write_text(f"a,b,c,price\n{rows}\n")
    train, test = load_targets(f"csv:{tmp_path}/t.csv?label=price&box=0,100")
    assert (train.labels.dtype, len(train) + len(test), train.columns) == (torch.float32, 20, ("a", "b", "c"))
    several = load_targets(f"csv:{tmp_path}/t.csv?label=b,c&box=0,100")[0]
    assert several.labels.shape == (len(train), 2)
    assert several.labels.dtype == torch.int64
    with pytest.raises(AdvregError, match="no column 'prize'"):
        load_targets(f"csv:{tmp_path}/t.csv?label=prize")
    with pytest.raises(AdvregError, match="targets of another task"):
        advreg.evaluate(nn.Linear(3, 2).eval(), train, "linf:0.1@0,100")
