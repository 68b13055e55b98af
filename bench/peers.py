"""The peers' own environment: what they pin must not reach the project's, and torch must not be installed twice.

    python bench/peers.py        # makes .venv-peers if it is absent or out of date, prints its Python

The peers are installed without what they declare (one pins an old requests, another asks for torchvision); the few
libraries they import are added, and everything else, torch and advreg included, comes from this interpreter's packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-peers"
PEERS = (
    "pyautoattack==0.2.0",
    "torchattacks==3.5.1",
    "foolbox==3.3.4",
    "eagerpy==0.30.0",
    "adversarial-robustness-toolbox==1.20.1",
)
NEEDS = ("GitPython>=3.1", "multiprocess>=0.70", "requests>=2.31", "scikit-learn>=1.4", "six>=1.16", "tqdm>=4.66")


def environment(folder: Path = FOLDER) -> Path:
    """Return the Python of the peers' environment, made first where it is absent, half made or out of date."""
    python, done = folder / "bin" / "python", folder / ".made"
    wanted = "\n".join([*PEERS, *NEEDS, _packages(), sys.version])
    if not (done.is_file() and done.read_text(encoding="utf-8") == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder, python)
        done.write_text(wanted, encoding="utf-8")
    return python


def enter(folder: Path = FOLDER) -> None:
    """Go on in the peers' environment: run this process's command again with its Python, unless it already does."""
    if Path(sys.prefix).resolve() != folder.resolve():
        python = str(environment(folder))
        os.execv(python, [python, *sys.argv])


def _make(folder: Path, python: Path) -> None:
    print(f"making {folder} with {' '.join(PEERS)}", file=sys.stderr)
    _run(sys.executable, "-m", "venv", str(folder))
    own = next((folder / "lib").glob("python*/site-packages"))
    # addsitedir also reads the .pth files there, one of which leads to an editable advreg
    (own / "shared.pth").write_text(f"import site; site.addsitedir({_packages()!r})\n", encoding="utf-8")
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, "-c", str(ROOT / "constraints.txt"), *NEEDS)
    _run(*pip, "--no-deps", *PEERS)


def _packages() -> str:
    return sysconfig.get_paths()["purelib"]


def _run(*command: str) -> None:
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with status {done.returncode}; see its words above")


if __name__ == "__main__":
    print(environment())
