"""Where and how computation runs: device, seeds, determinism, precision, and the description of an environment."""

from __future__ import annotations

import os
import platform
import random
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advreg.errors import ConfigError
from advreg.version import __version__

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of this name; ``"auto"`` is the first accelerator, or the CPU.

    In a process that ``torchrun`` started, ``"auto"`` and ``"cuda"`` are the GPU of its ``LOCAL_RANK``.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, ...

    Returns:
        The device.

    Raises:
        ConfigError: an unknown device, or one that is not available.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name in ("auto", "cuda") and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name == "auto":
        accelerators = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
        return torch.device(next((kind for kind, there in accelerators if there), "cpu"))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"device {name!r} cannot be used here; allowed: auto, cpu{_accelerators()}") from None
    return device


def make_current(device: torch.device) -> None:
    """Make a GPU the current one of this process, so that processes of one machine do not all use the first.

    Args:
        device: the device of this process.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (every device), numpy and Python.

    Args:
        seed: any integer that torch accepts.

    Example:
        >>> seed_everything(0)
        >>> first = torch.rand(1)
        >>> seed_everything(0)
        >>> bool(torch.rand(1) == first)
        True
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # a user's code may draw from it
    random.seed(seed)


def derived_seed(*parts: int | str) -> int:
    """Return a seed of 32 bits that depends on every part, so that no generator state is stored between epochs.

    Args:
        parts: numbers and names, such as the seed of the run and the epoch.

    Returns:
        An integer in [0, 2**32).

    Example:
        >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 1) != derived_seed(0, "epoch", 2)
        True
    """
    return random.Random("/".join(map(str, parts))).getrandbits(32)


@contextmanager
def deterministic() -> Iterator[None]:
    """Use torch kernels that give the same bytes in every run inside the block, then restore the previous settings."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic  # torch declares no types here
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False  # it costs time, and no code here reads uninitialised memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory = before[2:]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which forwards run in this precision; weights and inputs remain float32.

    Args:
        device: device of the forwards.
        precision: ``"float32"`` or a key of ``PRECISIONS``.

    Returns:
        A context manager.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on the device; for the CPU, the free pages of the system.

    Args:
        device: a GPU or the CPU.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def total_memory() -> int:
    """Return the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes, of tensors on an accelerator or of the process on the CPU; None if unknown.

    Args:
        device: a GPU or the CPU.

    Returns:
        Bytes, or None.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource  # missing on some platforms
    except ImportError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work, so that a time measurement is valid.

    Args:
        device: a GPU, or the CPU, for which nothing happens.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment() -> dict[str, str | int | None]:
    """Return what a result depends on besides its configuration: versions, processor, threads, commit.

    Returns:
        Values by name; None where unknown.
    """
    return {
        "advreg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _accelerators() -> str:
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return "".join(f", {name}" for name in names)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _commit() -> str | None:
    """Return the git commit of the working folder; None without one."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor's values in row-major order, for any dtype, device and memory layout.

    Args:
        tensor: any tensor.

    Returns:
        The bytes; they may share memory with the tensor.

    Example:
        >>> len(raw_bytes(torch.zeros(2, 3, dtype=torch.bfloat16).T))
        12
    """
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
