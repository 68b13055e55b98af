"""Plain folders of transformers: the whole model with its tokenizer, written so that a kill leaves whole files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from advreg.language.models.adapters import BASE, base_record
from advreg.language.models.gguf import hide_progress_bars
from advreg.language.models.language_model import LanguageModel
from advreg.runs import RunFolder
from advreg.runs.files import explain_os_error


def save_pretrained(lm: LanguageModel, folder: str | Path | RunFolder) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained(folder)`` loads, with tokenizer and hash of the base weights.

    Args:
        lm: a model without adapter.
        folder: the folder; it is made if it does not exist, and other files in it stay.

    Raises:
        RunError: the folder is not writable.
    """
    run = RunFolder.at(Path(folder))
    write_pretrained(run, lm.network, lm.tokenizer)
    run.write_json(BASE, base_record(lm))


def write_pretrained(run: RunFolder, network: Any, tokenizer: Any) -> None:
    """Write network and tokenizer into a folder of transformers; other files in it stay.

    Args:
        run: the folder.
        network: a network of transformers.
        tokenizer: its tokenizer.

    Raises:
        RunError: the folder is not writable.
    """
    with explain_os_error("write", run.path), tempfile.TemporaryDirectory(prefix=".saving.", dir=run.path) as scratch:
        with hide_progress_bars():
            network.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
        mode = (Path(scratch) / "config.json").stat().st_mode  # safetensors lets only the owner read its files
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file.name == "config.json"):
            file.chmod(mode)
            os.replace(file, run / file.name)  # config.json last: it makes the folder a model
