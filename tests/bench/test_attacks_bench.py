"""The benchmark's own arithmetic: rounds, ratios, counts, words. No peer is imported and nothing is timed."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

import advreg
from advreg.objectives import probability_margin

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # bench is a folder of scripts, not a package

import attacks
import compare
import competitors
import networks
import peers


def small_case(eps: float = 0.05) -> networks.Case:
    """A linear network on noise, whose labels are its own answers."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval().requires_grad_(False)
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    test = advreg.Dataset.from_tensors(images, model(images / 255).argmax(1))
    threat = advreg.ThreatModel("linf", eps)
    return networks.Case("a case", model, test, 1.0, n=8, threat=threat, steps=5, step_size=eps / 2)


def test_spread_is_median_and_extremes() -> None:
    found = compare.spread([3.0, 1.0, 10.0, 2.0])
    assert (found.median, found.low, found.high) == (2.5, 1.0, 10.0)
    assert f"{found:.1f}" == "2.5 (1.0-10.0)"


def test_ratios_are_taken_inside_a_round_so_that_noise_common_to_a_round_cancels() -> None:
    noise = [1.0, 7.0, 1.5, 40.0]
    found = compare.ratios([3 * factor for factor in noise], noise)
    assert found.median == found.low == found.high == pytest.approx(3.0)
    assert compare.ratios([1.0, 9.0, 5.0], [1.0, 3.0, 10.0]).median == 1.0  # of 1, 3, 0.5: not 5 / 3


def test_ratios_refuse_rounds_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="argument"):
        compare.ratios([1.0, 2.0], [1.0])


def test_everybody_does_every_round_once_and_nobody_always_comes_first() -> None:
    order: list[str] = []

    def competitor(name: str):
        return lambda number: order.append(f"{name}{number}") or number

    found = compare.interleaved({name: competitor(name) for name in "abc"}, 4)
    assert found == {name: [0, 1, 2, 3] for name in "abc"}
    assert order == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2", "a3", "b3", "c3"]


def test_timed_returns_the_result_of_the_work() -> None:
    seconds, result = compare.timed(lambda: "done")
    assert seconds >= 0
    assert result == "done"


def test_counting_sees_every_example_and_leaves_no_hook() -> None:
    case = small_case(eps=1e-6)  # nothing breaks, so the cost is known
    x, y = case.batch(0)
    near = int((probability_margin(case.model(x), y) > -0.9).sum())
    for name, make in competitors.OURS.items():
        competitor = make(case)
        polish = 0 if name == "advreg float32" else near * math.ceil(case.steps / 4)  # on what is near, by the original
        forwards = 8 * (case.steps + 3) + (8 + polish + 2 * near if polish else 0)
        with competitors.counted(*competitor.asked) as count:
            competitor.attack(x, y, 0)
        assert (count.forwards, count.backwards) == (forwards, 8 * case.steps + polish)
        competitor.attack(x, y, 0)
        assert count.forwards == forwards


def test_rounds_take_other_images_until_the_test_set_is_used_up() -> None:
    case = small_case()
    first, second = case.batch(0)[0], case.batch(1)[0]
    assert not torch.equal(first, second)
    assert torch.equal(case.batch(5)[0], first)
    assert all(len(case.batch(number)[0]) == case.n for number in range(20))


def test_only_images_that_the_network_gets_right_are_attacked() -> None:
    case = small_case()
    labels = case.test.labels.clone()
    labels[::4] = (labels[::4] + 1) % 3
    found, accuracy = networks.rightly(case.model, advreg.Dataset.from_tensors(case.test.images, labels), 20)
    assert accuracy == 0.75
    assert torch.equal(found.images, case.test.images[[i for i in range(20) if i % 4]])


def test_a_peer_pays_for_its_verdict_and_we_do_not_pay_twice() -> None:
    case = small_case()
    ours = competitors.advreg_float32(case)
    peer = competitors.Competitor(lambda x, y, seed: x, (case.model,), judges=False)
    assert attacks.shoot(case, ours, 0).verdict == 0
    shot = attacks.shoot(case, peer, 0)
    assert shot.verdict > 0
    assert shot.seconds == shot.attack + shot.verdict
    assert not any(shot.broken)  # the clean points are its labels' own


@pytest.mark.parametrize(("weak", "said"), [(0.954, "within 0.5"), (0.96, "MORE than 0.5")])
def test_attacks_of_unequal_strength_are_called_so(weak: float, said: str) -> None:
    names = [*competitors.OURS, *competitors.PEERS]
    rows = {name: {"seconds": [2.0, 4.0], "robust_accuracy": 0.95} for name in names}
    rows["foolbox"] = {"seconds": [1.0, 3.0], "robust_accuracy": weak}
    ratio = {"to_verdict": {"median": 2.5, "low": 2.0, "high": 3.0}}
    against = {peer: dict.fromkeys(competitors.OURS, ratio) for peer in competitors.PEERS}
    strength, speed = attacks.verdict(rows, against, 1000)
    assert said in strength
    assert "foolbox highest" in strength
    assert "fastest peer: foolbox; advreg float32 is 2.50x (2.00-3.00) as fast" in speed


def test_an_environment_is_made_once_and_again_when_half_made_or_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(peers, "_make", lambda folder, python: (folder.mkdir(), made.append(python)))
    folder = tmp_path / "peers"
    assert peers.environment(folder) == peers.environment(folder) == folder / "bin" / "python"
    assert len(made) == 1
    (folder / ".made").unlink()  # as a kill in the middle would leave it
    peers.environment(folder)
    assert len(made) == 2
    monkeypatch.setattr(peers, "PEERS", ("torchattacks==3.4.0",))
    peers.environment(folder)
    assert len(made) == 3
