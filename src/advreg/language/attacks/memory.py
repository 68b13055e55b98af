"""The memory of an attack's gradient step: measured on one request, and compared with what is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.language.models.loading import LanguageModel

_MEMINFO = Path("/proc/meminfo")


def saved_bytes(loss: Callable[[], Tensor]) -> int:
    """Return the bytes that a forward keeps for its backward, weights aside.

    Args:
        loss: runs the forward.

    Example:
        >>> x = torch.zeros(3, 4, requires_grad=True)
        >>> saved_bytes(lambda: x.exp().sum())
        48
    """
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:  # leaves are weights and inputs
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss()
    return sum(sizes.values())


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device; None where the system does not report it.

    Args:
        device: the device.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def require_memory(attack: str, lm: LanguageModel, bytes_each: int, batch_size: int) -> None:
    """Raise unless a batch of gradient steps fits into the free memory.

    Args:
        attack: name of the attack, for the message.
        lm: the model.
        bytes_each: bytes of one request.
        batch_size: requests in one batch.

    Raises:
        ConfigError: the batch does not fit.
    """
    free, needed = free_bytes(lm.device), bytes_each * batch_size
    if free is not None and needed > free:
        fits = free // max(bytes_each, 1)
        remedy = f"give a batch_size of at most {fits}" if fits else "use a smaller model or fewer tokens"
        size = f"{needed / 1e9:.1f} GB for a batch of {batch_size}"
        raise ConfigError(f"{attack} needs about {size}, and {free / 1e9:.1f} GB are free; {remedy}")
