"""Memory by example id: order does not matter, and only the parts of the run itself are restored."""

from __future__ import annotations

import pytest
import torch

from advreg.errors import RunError
from advreg.training import inner, per_example_state, policies, recipes
from advreg.training.per_example_state import PerExampleTable


@pytest.mark.parametrize("examples", [0, 100])
def test_rows_are_found_by_id(examples):
    rows = PerExampleTable(examples, shape=(2, 3), fill=-1.0)
    ids = torch.tensor([7, 0, 99, 13])
    values = torch.arange(24.0).view(4, 2, 3)
    for k in (2, 0, 3, 1):
        rows.write(ids[k : k + 1], values[k : k + 1])
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(rows.read(ids[order]), values[order])
    assert (rows.read(torch.tensor([5, 98])) == -1).all()
    rows.clear()
    assert (rows.read(ids) == -1).all()


def test_what_is_read_is_a_copy_without_a_graph():
    rows = PerExampleTable(4)
    ids = torch.arange(4)
    rows.write(ids, torch.ones(4, requires_grad=True) * 2)
    rows.read(ids).mul_(9)
    assert rows.read(ids).tolist() == [2.0] * 4
    assert not rows.read(ids).requires_grad


def test_state_of_parts_is_saved_and_restored_by_name():
    parts = {"attack": inner.FgsmPgi(), "recipe": recipes.free(), "policy": policies.iaat(), "loss": recipes.madry()}
    saved = per_example_state.states(parts)
    assert set(saved) == {"attack", "recipe", "policy"}
    assert all(isinstance(value, torch.Tensor) for state in saved.values() for value in state.values())
    per_example_state.restore(parts, saved)
    per_example_state.start_epoch(parts, 3)
    assert parts["attack"].epoch == 3
    per_example_state.share(parts)  # alone: nothing to do
    with pytest.raises(RunError, match="holds state of attack, recipe, policy, this run needs recipe; resume it"):
        per_example_state.restore({"recipe": recipes.free()}, saved)


def test_plain_parts_have_no_memory():
    parts = {"attack": print, "recipe": recipes.trades(), "policy": policies.warmup()}
    assert per_example_state.states(parts) == {}
    per_example_state.restore(parts, {})
