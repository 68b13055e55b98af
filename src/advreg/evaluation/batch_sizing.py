"""Choose the batch size by free memory, and halve it when a batch does not fit after all."""

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

_SHARE = 0.5  # of the free memory: the rest is for what else runs and for what this count does not see
_COPIES = 4  # a state holds an example's points, gradients and best; layers need room to work in


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
    """Return how many examples fit into memory with their graph: a power of two times a part of ``most``.

    What one example needs is counted, not guessed: the bytes that autograd keeps for a gradient to the input.

    Args:
        model: what the examples go through.
        x: at least one example ``(B, ...)``, on the model's device.
        most: never more than this many.

    Returns:
        Number of examples, 1 or more.
    """
    try:
        need = _COPIES * (_graph_bytes(model, x[:1]) + x[0].numel() * x.element_size())
    except Exception:  # the same failure under attack is reported with the attack's name
        return most
    room = _SHARE * runtime.free_memory(x.device)
    size = most
    while size > 1 and size * need > room:
        size //= 2
    return size


def _graph_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that a forward with a graph keeps, weights left out."""
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
    """Work done in portions that fit into memory; a portion that does not is halved, and so are all after it.

    Example:
        >>> def work(ids):
        ...     if len(ids) > 2:
        ...         raise MemoryError
        ...     return len(ids)
        >>> portions = AdaptiveBatcher(8)
        >>> portions.of(torch.arange(5), work), portions.size
        ([2, 2, 1], 2)
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def of(self, ids: Tensor, work: Callable[[Tensor], T]) -> list[T]:
        """Return what the work makes of each portion of the ids.

        Raises:
            ModelError: a single example does not fit.
        """
        done: list[T] = []
        while len(ids):
            portion = ids[: self.size]
            try:
                done.append(work(portion))
            except (MemoryError, RuntimeError) as cause:  # torch's own kind of each is a RuntimeError
                if not is_out_of_memory(cause):
                    raise
                if len(portion) == 1:
                    raise ModelError(
                        "one example does not fit into memory; use a larger device or a smaller model"
                    ) from None
                self.size = max(1, len(portion) // 2)
                _release_memory()
                continue
            ids = ids[len(portion) :]
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
