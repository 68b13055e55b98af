"""The papers of a release: every part has its hash in the lock file and in the bill of materials."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

SPEC = importlib.util.spec_from_file_location("release", Path(__file__).resolve().parents[1] / "tools" / "release.py")
assert SPEC is not None
assert SPEC.loader is not None
release = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(release)


def entry(name: str, version: str, digest: str, **facts: str) -> dict[str, Any]:
    """Return an entry of pip's report."""
    info = {"archive_info": {"hashes": {"sha256": digest * 64}}}
    return {"metadata": {"name": name, "version": version, **facts}, "download_info": info}


def test_lock_and_bill_hold_every_part_with_its_hash() -> None:
    given = [entry("advreg", "0.1.0", "a"), entry("h11", "0.16.0", "b", license="MIT"), entry("Typing_Ext", "4+x", "c")]
    parts = [release._component(one) for one in given]
    text = release.lock(parts)
    assert re.findall(r"^(\S+) \\\n    --hash=sha256:(\w)", text, re.MULTILINE) == [
        ("h11==0.16.0", "b"),
        ("typing-ext==4+x", "c"),
    ]
    bill = release.bill_of_materials(parts)
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "1.6",
        "advreg",
    )
    assert [part["purl"] for part in bill["components"]] == ["pkg:pypi/h11@0.16.0", "pkg:pypi/typing-ext@4%2Bx"]
    assert bill["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert bill["components"][0]["licenses"] == [{"license": {"name": "MIT"}}]
    assert bill["dependencies"][0]["dependsOn"] == [part["bom-ref"] for part in bill["components"]]
    assert release.bill_of_materials(parts)["serialNumber"] == bill["serialNumber"]


def test_every_part_is_pinned_and_local_builds_are_named() -> None:
    given = [entry("advreg", "0.1.0", "a"), entry("torch", "2.13.0+cpu", "b"), entry("Typing_Ext", "4", "c")]
    parts = [release._component(one) for one in given]
    assert release.unpinned(parts, "torch==2.13.0\ntyping_ext==4\n") == []
    assert release.unpinned(parts, "torch==2.12.0\n") == ["torch==2.13.0+cpu", "typing-ext==4"]
    assert release.local_builds(parts) == ["torch==2.13.0+cpu"]
