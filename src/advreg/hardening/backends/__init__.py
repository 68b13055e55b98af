"""The two media of hardening: images are trained and attacked here, texts are trained and evaluated by `advreg language`."""

from __future__ import annotations

from pathlib import Path

from advreg.hardening.backends.base import MediumBackend, TrustedBase
from advreg.hardening.backends.image import ImageBackend, load_image_base
from advreg.hardening.backends.text import TextBackend, load_text_base
from advreg.hardening.config import HardeningConfig
from advreg.hardening.workspace import Workspace

__all__ = ["MediumBackend", "TrustedBase", "backend_of", "load_trusted_base"]


def backend_of(workspace: Workspace) -> MediumBackend:
    """Return the backend of a workspace.

    Args:
        workspace: its ``keeps`` decides: images or texts.

    Raises:
        ConfigError: its attacks or its data cannot be used.
    """
    return TextBackend(workspace) if workspace.config.keeps == "texts" else ImageBackend.of(workspace)


def load_trusted_base(base: str | Path, config: HardeningConfig) -> TrustedBase:
    """Return a deployed model after checking it against the configuration; nothing is written.

    Args:
        base: run folder of the deployed model.
        config: the configuration of the workspace to create.

    Raises:
        ModelError, DataError, ConfigError, RunError: base, data or attacks cannot be used.
    """
    return load_text_base(base, config) if config.keeps == "texts" else load_image_base(base, config)
