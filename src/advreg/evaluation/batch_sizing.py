"""Choose the batch size by free memory, and halve it when a batch does not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from advreg import runtime
from advreg.attacks.model import query_model
from advreg.errors import ModelError
from advreg.results.ledger_rows import Batching

T = TypeVar("T")

_SHARE = 0.5  # share of the free memory: other processes and uncounted buffers need the rest
_COPIES = 4  # copies of an example in an attack's state (points, gradients, best), and room for layers


_ON_ACCELERATOR = Batching(rows=4096, chunks=16)
"""Rows that occupy a large GPU, and chunks that keep them that many while late attacks have few survivors."""


def batching_on(device: torch.device) -> Batching:
    """Return how examples are batched on a device; on a CPU, larger batches than 256 gain nothing.

    Args:
        device: device of the attacks.

    Returns:
        Rows and chunks that are attacked together.

    Example:
        >>> batching_on(torch.device("cpu"))
        Batching(rows=256, chunks=1)
    """
    return Batching() if device.type == "cpu" else _ON_ACCELERATOR


def max_batch_size(model: nn.Module, x: Tensor, most: int) -> int:
    """Return how many examples fit into memory with their autograd graph: ``most`` halved until they fit.

    The need of one example is measured: the bytes that autograd saves for the gradient at the input.

    Args:
        model: network under attack.
        x: at least one example ``(B, ...)``, on the model's device.
        most: largest batch.

    Returns:
        Number of examples, 1 or more.
    """
    try:
        need = example_bytes(model, x)
    except Exception:  # the same failure under attack is reported with the attack's name
        return most
    room = _SHARE * runtime.free_memory(x.device)
    size = most
    while size > 1 and size * need > room:
        size //= 2
    return size


def example_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the memory of one example under attack: what autograd saves, and copies of the example.

    Args:
        model: network under attack.
        x: at least one example ``(B, ...)``, on the model's device.

    Returns:
        Bytes.
    """
    return _COPIES * (_graph_bytes(model, x[:1]) + x[0].numel() * x.element_size())


def _graph_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that autograd saves in a forward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        query_model(model, x.detach().requires_grad_(True))
    return sum(sizes.values())


class AdaptiveBatcher:
    """Runs a function on batches that fit into memory; a batch that does not fit is halved, and so are all after it.

    Example:
        >>> def work(ids):
        ...     if len(ids) > 2:
        ...         raise MemoryError
        ...     return len(ids)
        >>> batcher = AdaptiveBatcher(8)
        >>> batcher.of(torch.arange(5), work), batcher.size
        ([2, 2, 1], 2)
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def of(self, ids: Tensor, work: Callable[[Tensor], T]) -> list[T]:
        """Return the results of a function on each batch of ids.

        Args:
            ids: ids ``(N,)``.
            work: function of some ids.

        Raises:
            ModelError: a single example does not fit.
        """
        done: list[T] = []
        while len(ids):
            batch = ids[: self.size]
            try:
                done.append(work(batch))
            except (MemoryError, RuntimeError) as cause:  # torch's out-of-memory errors are RuntimeErrors
                if not is_out_of_memory(cause):
                    raise
                if len(batch) == 1:
                    raise ModelError(
                        "one example does not fit into memory; use a larger device or a smaller model"
                    ) from None
                self.size = max(1, len(batch) // 2)
                _release_memory()
                continue
            ids = ids[len(batch) :]
        return done


def is_out_of_memory(cause: Exception) -> bool:
    """Return whether an error means that memory ran out.

    Args:
        cause: the exception.

    Returns:
        True for errors of Python, of torch and of its allocators.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError())
        (True, False)
    """
    if isinstance(cause, MemoryError | torch.OutOfMemoryError):
        return True
    return "not enough memory" in str(cause) or "out of memory" in str(cause)


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
