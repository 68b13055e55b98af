"""Make the pictures of these pages: a report in a headless Chromium, and an evaluation on a terminal.

python docs/shoot.py RUN     from the root of the project; Debian's package chromium has the browser
"""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLOURS = 96  # of the palette, so that files stay small
VIEWS = {  # name: width, height, scale, media features, media
    "report-wide": (1280, 1500, 1, "light", "screen"),
    "report-dark": (1280, 1000, 1, "dark", "screen"),
    "report-narrow": (390, 1200, 1.5, "light", "screen"),
    "report-pictures": (1280, 900, 1, "light", "screen"),
    "report-print": (794, 1123, 1, "light", "print"),
}
VIEW_START = {"report-pictures": ".gallery"}  # selector at the top of a view; the start of the page by default


def shoot(page_file: Path) -> None:
    """Write one picture for each view of a page."""
    sys.path.insert(0, str(ROOT))
    from tests.hardening.browser import browsing

    with tempfile.TemporaryDirectory() as profile, browsing(Path(profile)) as page:
        page.open(page_file.resolve().as_uri())
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        for name, (width, height, scale, theme, media) in VIEWS.items():
            size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
            page.call("Emulation.setDeviceMetricsOverride", **size)
            features = [{"name": "prefers-color-scheme", "value": theme}]
            page.call("Emulation.setEmulatedMedia", media=media, features=features)
            at = f"document.querySelector('{VIEW_START.get(name, 'body')}')"
            page.value(f"window.scrollTo(0, {at}.getBoundingClientRect().top + window.scrollY - 80)")
            page.value("new Promise(done => setTimeout(done, 300))")
            taken = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
            small = Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            small.save(PICTURES / f"{name}.png", optimize=True)


def terminal(command: list[str]) -> None:
    """Write the terminal output of a command as an SVG that needs no font file."""
    near, far = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "110"}
    process = subprocess.Popen(command, stdin=far, stdout=far, stderr=subprocess.DEVNULL, env=environment)
    os.close(far)
    written = b""
    while part := _read(near):
        written += part
    process.wait()
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(f"$ {' '.join(['advreg', *command[3:]])}", style="bold", highlight=False)
    console.print(Text.from_ansi(written.decode().replace("\r", "")))
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="advreg"), flags=re.S)
    (PICTURES / "terminal.svg").write_text(drawn.replace("Fira Code", "DejaVu Sans Mono"))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # the other end is closed
        return b""


if __name__ == "__main__":
    run = Path(sys.argv[1])
    from advreg import report

    shoot(report.write(run))
    terminal([sys.executable, "-m", "advreg", "evaluate", str(run), "--protocol", "strong", "-n", "1000"])
