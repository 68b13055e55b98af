"""A model's weights as bytes: apart from the rest of the room, which is read without torch."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor


def serialise(state: Mapping[str, Tensor]) -> bytes:
    """Return a state dict as safetensors; shared tensors are written once for each name.

    Args:
        state: tensors by name.

    Returns:
        Content of a safetensors file.

    Example:
        >>> import torch
        >>> serialise({"w": torch.zeros(2)}) == serialise({"w": torch.zeros(2)})
        True
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return safetensors.torch.save(tensors)
