"""Several processes that share one task, as ``torchrun`` starts them; in a single process, everything here does nothing.

In training each process takes its part of every batch and all hold the same weights. Rank 0 alone writes what belongs to all.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from advreg.errors import ConfigError

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)  # one process may compute for hours; the launcher notices a process that died


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that share a task; a single process by default.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        local_rank: number of this process on its machine, and so of its GPU.

    Example:
        >>> Ranks(1, 3).share("abcdefg")
        'be'
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Return whether this process writes the files of all processes: rank 0."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every ``world_size``-th item, starting at ``rank``.

        Args:
            items: the items of all processes.

        Returns:
            The items of this process.
        """
        return items[self.rank :: self.world_size]

    def barrier(self) -> None:
        """Wait until every process has come this far."""
        if self.world_size > 1:
            distributed.barrier()


SINGLE = Ranks()
"""A single process."""


@contextmanager
def join_processes(backend: str = "gloo") -> Iterator[Ranks]:
    """Join the process group that ``torchrun`` describes in the environment; without one, yield a single process.

    The threads of the group end with the block, as long as nothing keeps a module that was wrapped inside: a thread that
    outlives the interpreter aborts the process.

    Args:
        backend: ``gloo`` sends through the memory of the machine, ``cpu:gloo,cuda:nccl`` between GPUs too.

    Yields:
        The rank of this process.

    Raises:
        ConfigError: the environment holds the number of processes, but not the rank of this one.

    Example:
        >>> with join_processes() as ranks:
        ...     ranks.world_size
        1
    """
    ranks = _ranks_from_environment()
    if ranks.world_size < 2:
        yield SINGLE
        return
    if distributed.is_initialized():  # the caller's own group, which the caller ends
        yield ranks
        return
    import torch.distributed.nn  # noqa: F401  # imported later, its default arguments would keep this group for ever

    try:
        distributed.init_process_group(backend, timeout=_TIMEOUT)
    except ValueError as cause:
        raise ConfigError(
            f"process {ranks.rank} of {ranks.world_size} cannot join: {cause}; start all with torchrun"
        ) from None
    try:
        yield ranks
    finally:
        gc.collect()  # a wrapped module may wait in a reference cycle, and it holds the group
        distributed.destroy_process_group()


def _ranks_from_environment() -> Ranks:
    """Return the rank that the environment gives this process."""
    values = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if values["WORLD_SIZE"] in (None, "1"):
        return SINGLE
    try:
        return Ranks(int(values["RANK"] or ""), int(values["WORLD_SIZE"] or ""), int(values["LOCAL_RANK"] or "0"))
    except ValueError:
        given = ", ".join(f"{name} is {value!r}" for name, value in values.items())
        raise ConfigError(
            f"{given}; start several processes with torchrun, which sets all three, or unset them"
        ) from None


def is_distributed() -> bool:
    """Return whether this process shares its task with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def current_ranks() -> Ranks:
    """Return the rank of this process in the group that is open, or a single process."""
    return Ranks(distributed.get_rank(), distributed.get_world_size()) if is_distributed() else SINGLE


def backend_for(device: torch.device) -> str:
    """Return the backend for a device: NCCL between GPUs, gloo through the memory of the machine.

    Args:
        device: device of this process.

    Returns:
        Name of the backend.
    """
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def wrap_ddp(module: nn.Module, *, find_unused: bool) -> nn.Module:
    """Return the module with its gradients averaged over the processes; in a single process, the module itself.

    BatchNorm normalises each process's part by itself; `broadcast_buffers` makes the statistics equal again.

    Args:
        module: returns the loss of a batch.
        find_unused: whether some weights get no gradient, such as an unused head; the others then do not wait for it.

    Returns:
        The wrapped module, or the module itself.
    """
    return DistributedDataParallel(module, find_unused_parameters=find_unused) if is_distributed() else module


def sum_in_place(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the processes.

    Args:
        tensors: tensors of the same shapes on every process; changed in place.
    """
    if is_distributed():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def sum_values(*values: float, device: torch.device) -> list[float]:
    """Return each value summed over the processes, in float64.

    Args:
        values: numbers of this process.
        device: device for the communication.

    Returns:
        Sums over all processes.

    Example:
        >>> sum_values(1.0, 2.0, device=torch.device("cpu"))
        [1.0, 2.0]
    """
    if not is_distributed():
        return [float(value) for value in values]
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed.tolist()


def sum_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of weights over the processes, each of which has the gradient of its part of a batch.

    A weight that has a gradient on one process gets one on all; a weight without any keeps none.

    Args:
        weights: the weights, in the same order on every process.
    """
    if not is_distributed():
        return
    every = list(weights)
    counts = torch.tensor([float(weight.grad is not None) for weight in every], device=every[0].device)
    distributed.all_reduce(counts)
    for weight, count in zip(every, counts.tolist(), strict=True):
        if count:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            distributed.all_reduce(weight.grad)


def values_of_main(*values: float, device: torch.device) -> list[float]:
    """Return the values of rank 0, so that all processes take the same decision.

    Args:
        values: numbers of this process.
        device: device for the communication.

    Returns:
        The numbers of rank 0.
    """
    is_main = current_ranks().is_main
    return sum_values(*(value if is_main else 0.0 for value in values), device=device)


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the buffers of rank 0: statistics of BatchNorm differ between parts of a batch.

    Args:
        model: the model; its buffers are changed in place.
    """
    if is_distributed():
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
