"""The papers of a release: a lock file with hashes and a bill of materials, both from what pip resolves for the built wheel.

    python tools/release.py dist/advreg-0.1.0-py3-none-any.whl --extras harden,postgres --out dist

``requirements.lock`` is for ``pip install --require-hashes -r requirements.lock``, ``sbom.cdx.json`` is CycloneDX 1.6. The
hashes are those of the files for this platform and Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

Record = dict[str, Any]


def resolve(wheel: Path, extras: str) -> list[Record]:
    """Return what pip would install for a wheel, with the hash of each file; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        options = ["--report", str(report), "-c", "constraints.txt", f"{wheel}[{extras}]" if extras else str(wheel)]
        subprocess.run([*command, *options], check=True)
        found: list[Record] = json.loads(report.read_text())["install"]
    return sorted((_component(entry) for entry in found), key=lambda part: str(part["name"]).lower())


def _component(entry: Record) -> Record:
    facts = entry["metadata"]
    name, version = str(facts["name"]).lower().replace("_", "-"), str(facts["version"])
    found: Record = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{quote(version)}"}
    found["bom-ref"] = found["purl"]
    found["hashes"] = [{"alg": "SHA-256", "content": entry["download_info"]["archive_info"]["hashes"]["sha256"]}]
    licence = facts.get("license_expression") or facts.get("license")
    if licence and len(licence) < 100 and "\n" not in licence:
        found["licenses"] = [{"license": {"name": licence}}]
    return found


def unpinned(parts: Sequence[Record], constraints: str) -> list[str]:
    """Return the parts whose version is not that of ``constraints.txt``; ``2.13.0+cpu`` counts as ``2.13.0``.

    Args:
        parts: what pip resolved.
        constraints: text of the file.
    """
    pins = dict(line.lower().replace("_", "-").split("==") for line in constraints.split() if "==" in line)
    found = {str(part["name"]): str(part["version"]) for part in parts if part["name"] != "advreg"}
    return [f"{name}=={version}" for name, version in found.items() if pins.get(name) != version.partition("+")[0]]


def local_builds(parts: Sequence[Record]) -> list[str]:
    """Return the parts that are local builds: the lock file needs the index that holds them.

    Args:
        parts: what pip resolved.
    """
    return [f"{part['name']}=={part['version']}" for part in parts if "+" in str(part["version"])]


def lock(parts: Sequence[Record]) -> str:
    """Return the lock file of all parts but the package itself."""
    lines = [
        f"{part['name']}=={part['version']} \\\n    --hash=sha256:{part['hashes'][0]['content']}"
        for part in parts
        if part["name"] != "advreg"
    ]
    return "\n".join(lines) + "\n"


def bill_of_materials(parts: Sequence[Record]) -> Record:
    """Return the CycloneDX document, whose serial number depends on the parts alone."""
    main = next(part for part in parts if part["name"] == "advreg")
    others = [part for part in parts if part is not main]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts, sort_keys=True))
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    depends = [{"ref": main["bom-ref"], "dependsOn": [part["bom-ref"] for part in others]}]
    return {**document, "metadata": {"component": main}, "components": others, "dependencies": depends}


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Write requirements.lock and sbom.cdx.json of a built wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "--extras", default="harden,postgres,sign", help="extras to include (default harden,postgres,sign)"
    )
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the two files (default dist)")
    given = parser.parse_args()
    parts = resolve(given.wheel, given.extras)
    if loose := unpinned(parts, Path("constraints.txt").read_text()):
        raise SystemExit(f"constraints.txt does not pin {', '.join(loose)}; add these lines")
    if local := local_builds(parts):
        print(f"local builds, which PyPI does not hold: {', '.join(local)}; install from the index of this build")
    (given.out / "requirements.lock").write_text(lock(parts))
    (given.out / "sbom.cdx.json").write_text(json.dumps(bill_of_materials(parts), indent=1) + "\n")
    print(f"{len(parts)} parts in {given.out}/requirements.lock and {given.out}/sbom.cdx.json")


if __name__ == "__main__":
    main()
