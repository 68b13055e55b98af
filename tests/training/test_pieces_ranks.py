"""What two processes learn of half a batch each is what one learns of the whole: memory, weight perturbation, learned eps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F

import advreg
from advreg.distributed import Ranks
from advreg.training import per_example_state, policies, rollback, setup
from advreg.training.per_example_state import PerExampleTable
from advreg.training.policies import Moment
from advreg.training.step import Tally
from advreg.training.weight_perturbation import uphill
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)


def learned(rows: slice) -> dict[str, Tensor]:
    """Return what a process learns of these rows of a batch, everything in float64."""
    torch.manual_seed(0)
    net, x, y, ids = (
        nn.Linear(8, 3).double(),
        torch.rand(6, 8, dtype=torch.float64),
        torch.arange(6) % 3,
        torch.arange(6),
    )
    part = x[rows], y[rows]
    (move,) = uphill(net, lambda: F.cross_entropy(net(part[0]), part[1]), [net.weight], 0.05)
    ldes, iaat = policies.ldes(examples=6), policies.iaat(examples=6, warmup=0.0, method="margin")
    for policy in (ldes, iaat):
        for _ in range(3):
            policy(net, *part, ids[rows], None, THREAT, Moment(1, 0, 10))
        policy.share()
    return {"move": move, **ldes.state_dict(), **iaat.state_dict(), "rows": shared(rows)}


def shared(rows: slice) -> Tensor:
    """Return memory of six examples after this process wrote its own, in half precision and twice."""
    table, ids = PerExampleTable(6, shape=(2,), fill=-1.0, dtype=torch.float16), torch.arange(6)[rows]
    for scale in (1.0, 3.0):
        table.write(ids, scale * ids[:, None].expand(-1, 2))
        table.share()
    return table.values


def gone_back(rank: int, folder: str) -> Tensor:
    """Return the radii that a process knows after its epoch was rolled back to where each had written a row of its own."""
    data = small.write_data(Path(folder, f"{rank}.npz"))
    config = small.config(data, Path(folder, "run"), "policy.name=iaat")
    made = setup.prepare(config, Ranks(rank, 2))
    radii = made.policy.radii  # type: ignore[attr-defined]  # that of iaat
    radii.write(torch.tensor([rank]), torch.tensor([rank + 2.0]))
    healthy = rollback.snapshot_state(made, Tally())
    radii.write(torch.tensor([rank + 2]), torch.tensor([9.0]))
    rollback.roll_back(made, healthy)
    per_example_state.share(made.stateful_parts)
    return radii.values[:5]


def _rank(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    both = PerExampleTable(2)
    both.write(torch.tensor([0]), torch.tensor([rank + 1.0]))
    both.share()
    assert both.values.tolist() == [1.5, 0.0], "an example that both saw: the mean"
    if rank == 0:
        both.write(torch.tensor([0]), torch.tensor([7.0]))
    both.share()
    assert both.values.tolist() == [7.0, 0.0], "the latest word counts, not what another said before"
    torch.save({**learned(slice(3 * rank, 3 * rank + 3)), "back": gone_back(rank, folder)}, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return learned(slice(0, 6))


def test_processes_agree_to_the_bit(together):
    assert together[0].keys() == together[1].keys()
    assert all(torch.equal(together[0][name], together[1][name]) for name in together[0])


def test_rollback_keeps_rows_that_one_process_wrote(together):
    assert [part["back"].tolist() for part in together] == [[2.0, 3.0, 1.0, 1.0, 1.0]] * 2


def test_two_learn_what_one_does(together, alone):
    assert {*alone, "back"} == together[0].keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[0][name], value, atol=1e-6, rtol=1e-5)
