"""Numbers that checks read from a device: at once, or later, without making a training step wait for the GPU."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

Verify = Callable[[list[float]], None]
"""Raises if the numbers are invalid."""

Read = Callable[[Tensor, Verify], None]
"""Passes the numbers of a tensor to a `Verify`: `read_now`, or `read_later`."""

_FIRST = 16
"""Reads that wait in any case: most invalid data shows in the first steps, and an error there points to its line."""

_pending: deque[tuple[torch.cuda.Event, Tensor, Verify]] = deque()
_count = itertools.count()


def read_now(values: Tensor, verify: Verify) -> None:
    """Verify these numbers at once; on a GPU, this waits for all work before them.

    Args:
        values: numbers ``(N,)``.
        verify: raises if they are invalid.

    Example:
        >>> read_now(torch.tensor([1.0, 2.0]), print)
        [1.0, 2.0]
    """
    verify(values.tolist())


def read_later(values: Tensor, verify: Verify) -> None:
    """Verify these numbers at a later call if they are on a GPU, and at once elsewhere: an error comes some steps late there.

    Args:
        values: numbers ``(N,)``.
        verify: raises if they are invalid.
    """
    if values.device.type != "cuda" or next(_count) < _FIRST:
        return read_now(values, verify)
    verify_pending(wait=False)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    _pending.append((arrived, host, verify))
    return None


def verify_pending(*, wait: bool = True) -> None:
    """Verify the numbers that `read_later` left pending, such as at the end of an epoch.

    Args:
        wait: whether to wait for those that the device has not computed yet.
    """
    while _pending and (wait or _pending[0][0].query()):  # type: ignore[no-untyped-call]
        arrived, host, verify = _pending.popleft()
        arrived.synchronize()
        verify(host.tolist())
