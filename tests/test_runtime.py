"""Devices, seeds, determinism and the environment."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from advreg import runtime
from advreg.errors import ConfigError


@pytest.mark.parametrize("name", ["gpuu", "cuda:99", "", "cpu:x"])
def test_missing_device_raises_one_line(name):
    with pytest.raises(ConfigError, match="allowed: auto, cpu"):
        runtime.choose_device(name)


def test_auto_device_works():
    assert torch.ones(2, device=runtime.choose_device()).sum() == 2


def test_equal_seeds_draw_equal_numbers():
    def draws():
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    runtime.seed_everything(3)
    first, second = draws(), draws()
    runtime.seed_everything(3)
    assert draws() == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_derived_seeds_differ_and_fit_every_generator():
    seeds = {runtime.derived_seed(seed, "epoch", epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_determinism_ends_with_the_block():
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    inside = []

    @runtime.deterministic()
    def fail():
        inside.append(torch.are_deterministic_algorithms_enabled())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [True]
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_precision_applies_inside_the_block_only():
    a = torch.ones(2, 2)
    with runtime.autocast(torch.device("cpu"), "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with runtime.autocast(torch.device("cpu"), "float32"):
        assert (a @ a).dtype == torch.float32


def test_environment_lists_what_results_depend_on():
    found = runtime.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]


def test_environment_outside_a_repository_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runtime.environment()["commit"] is None


def test_free_memory_is_a_number_of_bytes():
    assert runtime.free_memory(torch.device("cpu")) > 2**20
