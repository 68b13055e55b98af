"""Several processes that train one model, as ``torchrun`` starts them; alone, everything here does nothing.

Each takes its part of every batch, and all hold the same weights: what one decides, all decide. Only the first one writes.
"""

from __future__ import annotations

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def own_device(name: str) -> str:
    """Return the accelerator of this process where ``"auto"`` or ``"cuda"`` leaves the choice, else the name."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local}"
    return name


def settle(device: torch.device) -> None:
    """Make the device the current one of this process: processes on one machine must not all wait on the first."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def backend(device: torch.device) -> str:
    """Return how processes talk: NCCL between GPUs, gloo for what lies in the memory of the machine."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def wrap_ddp(lesson: nn.Module, *, some_rest: bool) -> nn.Module:
    """Return the lesson with its gradients averaged over the processes; alone, the lesson itself.

    BatchNorm normalises each process's part by itself; `share_buffers` makes the statistics one again.

    Args:
        lesson: the loss of a batch as a module.
        some_rest: whether some weights get no gradient, such as a head that is not asked: nobody must then wait for it.
    """
    return DistributedDataParallel(lesson, find_unused_parameters=some_rest) if together() else lesson


def total(*values: float, device: torch.device) -> list[float]:
    """Return each value summed over the processes, in float64."""
    if not together():
        return [float(value) for value in values]
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed.tolist()


def of_first(*values: float, device: torch.device) -> list[float]:
    """Return the values of the first process, so that all decide alike on what each measured."""
    leads = not together() or distributed.get_rank() == 0
    return total(*(value if leads else 0.0 for value in values), device=device)


def own_share(work: range) -> range:
    """Return every so-manieth piece of the work: that of this process."""
    return work[distributed.get_rank() :: distributed.get_world_size()] if together() else work


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first one: BatchNorm's statistics differ between parts of a batch."""
    if together():
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


def together() -> bool:
    """Whether there are other processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
