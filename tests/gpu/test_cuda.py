"""Laws on a CUDA device: verdicts of the CPU, steps that never wait, equal bytes after a resume. Skipped without a GPU."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import example_rng
from advreg.attacks.inputs import into_box_once
from advreg.attacks.readback import verify_pending
from advreg.config import Config
from advreg.errors import DataError
from advreg.module_modes import train_mode
from advreg.training import Moment, fit, prepare, take_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

THREATS = {"linf": 0.1, "l2": 1.0, "l1": 4.0}
ATTACKS: dict[str, dict[str, object]] = {
    "fgsm": {}, "pgd": {"steps": 10}, "apgd": {"steps": 20}, "fmn": {"steps": 20}, "deepfool": {"steps": 10},
    "square": {"queries": 50}, "fab": {"steps": 5, "restarts": 1},
}  # fmt: skip


def examples(n: int = 32) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small float64 network, points, and the labels that the network gives most of them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
    model = nn.Sequential(*layers).double().eval()
    x = torch.rand(n, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_gives_the_verdicts_of_the_cpu(name: str, norm: str) -> None:
    model, x, y = examples()
    attack, threat = getattr(advreg.attacks, name), advreg.ThreatModel(norm, THREATS[norm])
    cpu = attack(model, x, y, threat, **ATTACKS[name])
    gpu = attack(model.cuda(), x.cuda(), y.cuda(), threat, **ATTACKS[name])
    assert torch.equal(cpu.broken, gpu.broken.cpu())
    survivors = ~cpu.broken  # on a GPU, broken examples leave at every tenth step only
    assert torch.allclose(cpu.x_adv[survivors], gpu.x_adv.cpu()[survivors], atol=1e-6)
    assert torch.equal(cpu.cost[survivors], gpu.cost.cpu()[survivors])


@pytest.mark.parametrize("draw", [example_rng.uniform, example_rng.normal, example_rng.signs])
def test_draws_of_an_example_equal_those_on_the_cpu(draw: Callable[..., Tensor]) -> None:
    ids = torch.tensor([0, 5, 2**40])
    assert torch.allclose(draw(ids, (7,), seed=3), draw(ids.cuda(), (7,), seed=3).cpu(), atol=1e-6)


def waits(work: Callable[[], object]) -> Counter[str]:
    """Return how often each line of the package waited for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(w.filename).name}:{w.lineno}"
        for w in caught
        if "synchroniz" in str(w.message) and "advreg" in w.filename
    )


@pytest.mark.parametrize(("norm", "most"), [("linf", 0.0), ("l2", 1.0), ("l1", 0.0)])
def test_pgd_step_waits_only_for_the_l2_projection(norm: str, most: float) -> None:
    model, x, y = examples()
    model, x, y = model.float().cuda(), x.float().cuda(), y.cuda()
    attack = partial(advreg.pgd, model, x, y, advreg.ThreatModel(norm, THREATS[norm]), early_stop=False)
    few, many = waits(partial(attack, steps=5)), waits(partial(attack, steps=25))
    assert sum((many - few).values()) <= 20 * most, many - few


def test_training_step_never_waits(tmp_path: Path) -> None:
    run = prepare(config(tmp_path / "run", "attack.name=n-fgsm", "average.name=ema", "train.drop_last=true"))
    train_mode(run.model)
    batches = list(run.batches.epoch(1))

    def train() -> None:
        for step, batch in enumerate(batches):
            take_step(run, batch, Moment(1, step, run.steps))

    for _ in range(4):  # the first steps check their inputs at once
        train()
    assert not waits(train)
    verify_pending()


def test_invalid_training_inputs_are_found_without_waiting() -> None:
    model, x, y = examples()
    model, x, y = model.float().cuda(), x.float().cuda(), y.cuda()
    threat = advreg.ThreatModel("linf", 0.1)
    for _ in range(20):
        into_box_once(x.clone(), threat.box)
    into_box_once(x + 2, threat.box)
    with pytest.raises(DataError, match="outside the box"):
        verify_pending()


def test_evaluation_counts_the_broken_examples_of_the_cpu(tmp_path: Path) -> None:
    model, x, y = examples(300)
    model, x = model.float(), x.float()
    cpu = advreg.evaluate(model, (x, y), "linf:0.05", protocol="strong", out=tmp_path / "cpu")
    gpu = advreg.evaluate(model.cuda(), (x, y), "linf:0.05", protocol="strong", out=tmp_path / "gpu")
    assert abs(int(cpu.broken.sum()) - int(gpu.broken.sum())) <= 1
    assert gpu.clean_accuracy == cpu.clean_accuracy


def config(folder: Path, *changes: str) -> Config:
    """Return a tiny run on the GPU."""
    tiny = (
        "model.name=zoo:mnist-dnn",
        "data.validation=59000",
        "train.epochs=2",
        "attack.steps=2",
        "train.device=cuda",
        "seed=1",
    )
    return Config().replace_with([*tiny, f"train.out={folder}", *changes])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_the_gpu_lowers_the_loss(tmp_path: Path, precision: str) -> None:
    run = fit(config(tmp_path / "run", f"train.precision={precision}"))
    losses = [row["loss"] for row in run.read_log("metrics.jsonl") if "event" not in row]
    assert losses[-1] < losses[0]


def test_diagnosis_runs_on_the_gpu() -> None:
    _, test = advreg.load_data("mnist")
    model = advreg.load_model("zoo:mnist-dnn").cuda().eval()
    assert advreg.diagnose(model, test, "linf:0.1", n=64, quick=True).verdict in ("SUSPECT", "UNRELIABLE", "TRUSTED")
