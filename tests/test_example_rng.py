"""Random draws depend on the example only, and have their distributions."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from advreg import example_rng

DRAWS = [example_rng.uniform, example_rng.normal, example_rng.signs]


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_depend_on_the_id_and_not_on_the_batch(draw) -> None:
    ids = torch.arange(100)
    whole = draw(ids, (3, 5), seed=4, dtype=torch.float64)
    shuffled = torch.randperm(100)
    assert torch.equal(draw(ids[shuffled], (3, 5), seed=4, dtype=torch.float64), whole[shuffled])
    for i in (0, 17, 99):
        assert torch.equal(draw(ids[i : i + 1], (3, 5), seed=4, dtype=torch.float64)[0], whole[i])


@pytest.mark.parametrize("draw", DRAWS)
def test_seed_stream_and_id_each_change_the_draws(draw) -> None:
    ids = torch.tensor([1])
    base = draw(ids, (64,), seed=0, stream=0)
    for other in (draw(ids, (64,), 1, 0), draw(ids, (64,), 0, 1), draw(ids + 1, (64,), 0, 0)):
        assert not torch.equal(other, base)


def test_uniform_and_normal_have_their_distributions() -> None:
    ids = torch.arange(2000)
    u = example_rng.uniform(ids, (100,), seed=9, dtype=torch.float64)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    z = example_rng.normal(ids, (100,), seed=9, dtype=torch.float64)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_neighbouring_ids_and_streams_are_not_correlated() -> None:
    ids = torch.arange(1000)
    a, b = example_rng.uniform(ids, (200,), 0, 0), example_rng.uniform(ids + 1, (200,), 0, 1)
    limit = 5 / (1000 * 200) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < limit
    across = torch.corrcoef(torch.stack([a[:-1].flatten(), a[1:].flatten()]))[0, 1]
    assert abs(float(across)) < limit


def test_draws_equal_the_generator_in_python_integers() -> None:
    """Results of published seeds depend on these numbers: the definition with unsigned integers of any size."""
    wrap, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def scramble(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        return z ^ (z >> 31)

    def draw(example: int, k: int, seed: int, stream: int) -> float:
        lane = scramble((scramble((seed * golden + 1) & wrap) + (stream + 1) * golden) & wrap)
        key = scramble(lane ^ scramble((example + golden) & wrap))
        return (scramble((key + (k + 1) * golden) & wrap) >> 40) / 2**24

    drawn = example_rng.uniform(torch.tensor([0, 12345]), (3,), seed=2026, stream=3, dtype=torch.float64)
    assert drawn.tolist() == [[draw(i, k, 2026, 3) for k in range(3)] for i in (0, 12345)]
