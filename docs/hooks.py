"""What mkdocs does besides: each notebook becomes a page, with the outputs that are stored in it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and the pictures in its outputs as files of their own."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pictures: dict[str, bytes] = {}
        text = page(json.loads(notebook.read_text(encoding="utf-8")), notebook.stem, pictures)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page(notebook: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    """Return a notebook as Markdown; its pictures are put into ``pictures``."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [output(found, name, pictures) for found in cell.get("outputs", [])]
    return "\n\n".join([*parts, f"*This page is `notebooks/{name}.ipynb`, which the tests run.*\n"])


def output(found: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    """Return one output of a cell as Markdown: a picture where there is one, else text."""
    data = found.get("data", {})
    if "image/png" in data:
        file = f"{name}-{len(pictures)}.png"
        pictures[file] = base64.b64decode(data["image/png"])
        return f"![what this cell draws]({file})"
    text = found.get("text") or data.get("text/plain") or ""
    return f"```text\n{ANSI.sub('', ''.join(text)).rstrip()}\n```"
