"""Run folders as `advreg language evaluate` writes them, with the conduct that a test wants."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PROTOCOL = "language@1"
ATTACKS = ("direct", "roleplay", "soft_prompt")


def network():
    """A tiny random model, as `advreg.language.load` takes it from a factory."""
    from tests.language.small import tiny

    lm = tiny()
    return lm.network, lm.tokenizer


def other_network():
    from tests.language.small import tiny

    lm = tiny(1)
    return lm.network, lm.tokenizer


def row(axis: str, attack: str, i: int, outcome: str, prompt: str) -> dict:
    return {"axis": axis, "attack": attack, "id": i, "prompt": prompt, "outcome": outcome, "text": ""}


def write_spoken(
    folder: Path,
    complied: Collection[int] = (),
    refused: Collection[int] = (),
    unable: Collection[int] = (),
    false: Collection[int] = (),
    babbled: Collection[int] = (),
    *,
    n: int = 400,
    seed: int = 0,
    judge: str = "keyword",
    weights: int = 0,
    asked: str = "request",
) -> Path:
    """Write the evaluation of a model that gives in to some requests, refuses safe prompts, fails tasks and questions.

    A request is given in to by roleplay alone, and every one by the soft prompt.
    """
    place = folder / "evaluation" / PROTOCOL
    place.mkdir(parents=True)
    save_file({"lora_A": np.full((2, 2), weights, np.float32)}, folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps({"kind": "lora", "model": "small", "rank": 2, "alpha": 2}))
    facts = {"data": f"{asked} {n}", "settings": judge, "seed": seed, "model": f"weights {weights}", "chunk": 16}
    rows: list[dict] = [{"schema": "advreg/ledger@1", "protocol": PROTOCOL, **facts}]
    for i in range(n):
        for attack in ATTACKS:
            hit = attack == "soft_prompt" or (attack == "roleplay" and i in complied)
            rows.append(row("attack_success", attack, i, "complied" if hit else "refused", f"{asked} {i}"))
        said = "neither" if i in babbled else "refused" if i in refused else "complied"
        rows.append(row("over_refusal", "plain", i, said, f"safe {i}"))
        rows.append(row("instructions", "plain", i, "loose" if i in unable else "strict", f"task {i}"))
        fact = "wrong" if i in false else "right"
        rows += [row("factual", kind, i, fact, f"question {i}") for kind in ("mc1", "two_choice")]
    (place / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))

    def figure(share: float, corrected: float = 0.0) -> dict:
        return {"value": max(share - corrected, 0.0), "raw": share, "interval": [0.0, 1.0], "n": n}

    success = {"direct": figure(0.0), "roleplay": figure(len(complied) / n, 0.1)}
    success |= {"at_least_one": figure(len(complied) / n, 0.1), "soft_prompt": figure(1.0)}
    axes = {
        "attack_success": success,
        "over_refusal": {**figure(len(refused) / n, 0.05), "by_type": {}},
        "factual": {kind: figure(1 - len(false) / n) for kind in ("mc1", "two_choice")},
        "coherence": figure(1 - len(babbled) / n),
        "instructions": {kind: figure(1 - len(unable) / n) for kind in ("strict", "loose")},
    }
    record = {"kind": "language", "protocol": PROTOCOL, "model": "small", "seed": seed, "judge": {"name": judge}}
    (place / "results.json").write_text(json.dumps({**record, "axes": axes}))
    return folder
