"""Laws on a CUDA device: the CPU's verdicts, no waiting in a step, equal bytes after a resume. Skipped where there is no GPU."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import example_rng
from advreg.config import Config
from advreg.training import fit

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
    assert torch.allclose(cpu.x_adv, gpu.x_adv.cpu(), atol=1e-9)
    assert torch.equal(cpu.cost, gpu.cost.cpu()) or name in ("fgsm", "pgd")  # checks every ten steps: later retirement


@pytest.mark.parametrize("draw", [example_rng.uniform, example_rng.normal, example_rng.signs])
def test_draws_of_an_example_equal_those_on_the_cpu(draw: Callable[..., Tensor]) -> None:
    ids = torch.tensor([0, 5, 2**40])
    assert torch.allclose(draw(ids, (7,), seed=3), draw(ids.cuda(), (7,), seed=3).cpu(), atol=1e-6)


def waits(work: Callable[[], object]) -> Counter[str]:
    """Return how often each line of code waited for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))


@pytest.mark.parametrize("norm", THREATS)
def test_pgd_step_never_waits_for_the_device(norm: str) -> None:
    model, x, y = examples()
    model, x, y = model.float().cuda(), x.float().cuda(), y.cuda()
    threat = advreg.ThreatModel(norm, THREATS[norm])
    few, many = (
        waits(lambda steps=steps: advreg.pgd(model, x, y, threat, steps=steps, early_stop=False)) for steps in (5, 25)
    )
    assert many == few


def test_evaluation_counts_the_broken_examples_of_the_cpu(tmp_path: Path) -> None:
    model, x, y = examples(300)
    model, x = model.float(), x.float()
    cpu = advreg.evaluate(model, (x, y), "linf:0.05", protocol="strong", out=tmp_path / "cpu")
    gpu = advreg.evaluate(model.cuda(), (x, y), "linf:0.05", protocol="strong", out=tmp_path / "gpu")
    assert abs(int(cpu.broken.sum()) - int(gpu.broken.sum())) <= 1
    assert gpu.clean_accuracy == cpu.clean_accuracy


def config(folder: Path, *changes: str) -> Config:
    """Return a tiny run on the GPU."""
    tiny = ("model.name=zoo:mnist-dnn", "data.validation=59000", "train.epochs=2", "attack.steps=2", "train.device=cuda", "seed=1")
    return Config().replace_with([*tiny, f"train.out={folder}", *changes])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_the_gpu_lowers_the_loss(tmp_path: Path, precision: str) -> None:
    run = fit(config(tmp_path / "run", f"train.precision={precision}"))
    losses = [row["loss"] for row in run.read_log("metrics.jsonl") if "event" not in row]
    assert losses[-1] < losses[0]


def test_diagnosis_runs_on_the_gpu() -> None:
    train, test = advreg.load_data("mnist")
    model = advreg.load_model("zoo:mnist-dnn").cuda().eval()
    assert advreg.diagnose(model, test, "linf:0.1", n=64, quick=True).verdict in ("SUSPECT", "UNRELIABLE", "TRUSTED")
