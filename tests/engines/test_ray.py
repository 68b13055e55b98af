"""A real Ray cluster of two workers on this machine, one of which is killed in the middle of a unit."""

from __future__ import annotations

import time

import pytest

from advreg.engines.on_ray import run_on_ray
from advreg.errors import ModelError
from tests.engines import letters
from tests.engines.test_local import WORK

ray = pytest.importorskip("ray", reason="needs advreg[ray]")
pytestmark = [
    pytest.mark.slow,  # the cluster alone costs 15 processor seconds
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

_PATIENCE = 60.0  # seconds in which a cluster must start


@pytest.fixture(scope="module")
def cluster():
    """Start two workers; skip where the machine is too slow for it."""
    began = time.monotonic()
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as cause:
        pytest.skip(f"ray does not start here: {str(cause)[:80]}")
    if time.monotonic() - began > _PATIENCE:
        ray.shutdown()
        pytest.skip(f"ray needed more than {_PATIENCE:.0f} s to start")
    yield
    ray.shutdown()


def test_ray_repeats_no_result_after_a_killed_worker(cluster, tmp_path) -> None:
    found = list(run_on_ray(WORK, letters.Dying(tmp_path, "c"), workers=2))
    assert sorted(found) == list("abcefghijkl")
    assert (tmp_path / "death-c").exists()
    assert sorted((tmp_path / "letters").read_text()) == sorted(found)


def test_ray_passes_on_the_error_of_a_model(cluster) -> None:
    with pytest.raises(ModelError, match="no letters in abc"):
        list(run_on_ray(WORK[:1], letters.refuse, workers=2))
