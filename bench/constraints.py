"""Repair far random targets of the loan table and count rows that leave the threat model, by a checker of its own.

    python -m bench.constraints [--rows 1000000]

A million rows take 6 to 8 seconds of one core in each norm.
"""

from __future__ import annotations

import argparse
import time

from tests.constraints.loans import repaired, violations

from advreg.norms import NORMS

_BATCH = 20_000
_EPS = (0.3, 0.6, 1.0, 1.5, 2.0)


def count(norm: str, rows: int) -> tuple[int, int]:
    """Return how many of the repaired rows violate the threat model, and how many fell back to the clean row."""
    bad, fallen = 0, 0
    for part in range(rows // _BATCH):
        eps = _EPS[part % len(_EPS)]
        x, points, fell_back = repaired(_BATCH, norm, eps, seed=part)
        bad += int(violations(points, x, norm, eps).sum())
        fallen += int(fell_back.sum())
    return bad, fallen


def main() -> None:
    """Print violations and the share of fallbacks in each norm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows // _BATCH * _BATCH
    for norm in NORMS:
        began = time.process_time()
        bad, fallen = count(norm, rows)
        spent = time.process_time() - began
        print(f"{norm}: {rows} rows, {bad} violations, {fallen / rows:.3%} fell back, {spent:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
