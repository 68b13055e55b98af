"""Detection of catastrophic overfitting and label leaking from probes on a few fixed training examples.

In catastrophic overfitting, the network defeats a one-step attack by bending the loss where that step evaluates it: accuracy
under FGSM rises while accuracy under PGD falls to zero. It happens within a few hundred steps, and the loss does not show it.

Reference: Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advreg.attacks import craft
from advreg.attacks.model import query_model
from advreg.module_modes import eval_mode
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel
from advreg.trainer.moment import Moment
from advreg.training.learning import (
    LearningRecord,
    chance_level,
    detect_blow_up,
    detect_not_learning,
    measure_clean,
)
from advreg.training.task_scores import (
    attacked_score_sum,
    detect_constant_outputs,
    detect_large_loss,
    measure_learning,
    score_sum,
)

GAP = 0.15  # between accuracy under FGSM and under PGD
DROP = 0.20  # of accuracy under PGD, from its best
LEAK = 0.02  # by which accuracy under FGSM exceeds clean accuracy
EXAMPLES, STEPS = 128, 10

Mode = Literal["off", "warn", "repair"]


@dataclass(frozen=True)
class ProbeAccuracy:
    """Accuracies on the guard's examples: clean, at the points of FGSM from the clean one, and in the worst case PGD finds."""

    clean_accuracy: float
    fgsm_accuracy: float
    pgd_accuracy: float


def measure_probe(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, task: Task = CLASSES) -> ProbeAccuracy:
    """Measure a model in eval mode; its modes are restored, and no global random draw is used up.

    Args:
        model: the network; its modes are restored.
        x: examples of the probe ``(n, ...)``.
        y: their labels ``(n,)``.
        threat: norm, eps and box.
        task: what an output is worth; other tasks than classification have mean scores in place of accuracies.

    Returns:
        Accuracy on clean inputs, under one step, and under PGD.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(4, 3), torch.rand(2, 4)
        >>> measure_probe(model, x, model(x).argmax(1), ThreatModel("linf", 1e-6))
        ProbeAccuracy(clean_accuracy=1.0, fgsm_accuracy=1.0, pgd_accuracy=1.0)
    """
    with eval_mode(model):
        with torch.no_grad():
            clean = float(score_sum(task, query_model(model, x), y))
            objective = task.training_loss
            one_step = craft(model, x, y, threat, steps=1, start="zero", objective=objective, task=task).x_adv
            stepped = float(score_sum(task, query_model(model, one_step), y))
        attacked = attacked_score_sum(model, x, y, threat, task, steps=STEPS)
    return ProbeAccuracy(clean / len(x), stepped / len(x), attacked / len(x))


@dataclass(frozen=True)
class Memory:
    """The guard's record between probes.

    Attributes:
        best: highest accuracy under PGD of a healthy probe; None before the first.
        ill: whether the last probe was overfitted; it is reported once, not at every probe.
        leaking: whether the last probe showed label leaking.
        repairs: how often the run was rolled back.
        ramp: step of the whole run at which the guard let eps start again from 0; None where it never did.
    """

    best: float | None = None
    ill: bool = False
    leaking: bool = False
    repairs: int = 0
    ramp: int | None = None


def detect_catastrophic_overfitting(probe: ProbeAccuracy, best: float, *, one_step: bool) -> str | None:
    """Return the sign of catastrophic overfitting in a probe, or None.

    A gap alone proves nothing: it is wide too while a robust model still learns, but then accuracy under PGD rises. And it is
    no sign at all in training with several steps. Nor does a drop, where clean accuracy drops as well: that is a learning
    rate too high.

    Args:
        probe: the probe.
        best: highest accuracy under PGD so far.
        one_step: whether training attacks with one step.

    Example:
        >>> detect_catastrophic_overfitting(ProbeAccuracy(0.9, 0.8, 0.1), best=0.4, one_step=False)
        'accuracy under PGD fell from 40% to 10%'
        >>> detect_catastrophic_overfitting(ProbeAccuracy(0.9, 0.8, 0.5), best=0.4, one_step=True)
    """
    if probe.pgd_accuracy < min(best, probe.clean_accuracy) - DROP:
        return f"accuracy under PGD fell from {best:.0%} to {probe.pgd_accuracy:.0%}"
    if one_step and probe.fgsm_accuracy - probe.pgd_accuracy > GAP and probe.pgd_accuracy <= best:
        return f"accuracy is {probe.fgsm_accuracy:.0%} under FGSM but {probe.pgd_accuracy:.0%} under PGD"
    return None


def detect_label_leaking(probe: ProbeAccuracy, chance: float = 0.0) -> str | None:
    """Return the sign of label leaking, higher accuracy on attacked than on clean inputs, or None.

    The model then reads the label from the perturbation, which depends on it. A model at chance level has read nothing yet:
    which class it predicts where is accident.

    Args:
        probe: the probe.
        chance: clean accuracy up to which the model counts as untrained; see `advreg.training.learning.chance_level`.

    Reference: Kurakin, Goodfellow, Bengio, "Adversarial machine learning at scale", ICLR 2017.

    Example:
        >>> detect_label_leaking(ProbeAccuracy(0.7, 0.9, 0.1))
        'accuracy is 90% under FGSM but 70% on clean inputs'
        >>> detect_label_leaking(ProbeAccuracy(0.1, 0.2, 0.1), chance=0.15)
    """
    if probe.clean_accuracy <= chance or probe.fgsm_accuracy <= probe.clean_accuracy + LEAK:
        return None
    return f"accuracy is {probe.fgsm_accuracy:.0%} under FGSM but {probe.clean_accuracy:.0%} on clean inputs"


class Guard:
    """Probes a run every ``every`` steps, always on the same examples.

    Args:
        mode: ``"off"``, ``"warn"`` or ``"repair"``.
        every: steps between probes; a probe also runs at the end of each epoch.
        x, y: the examples.
        threat: threat model of the probe; None for training without an attack, which is not probed.
        task: what an output is worth.
    """

    def __init__(
        self, mode: Mode, every: int, x: Tensor, y: Tensor, threat: ThreatModel | None, task: Task = CLASSES
    ) -> None:
        self.mode, self.every, self.x, self.y, self.threat, self.task = mode, every, x, y, threat, task
        self.chance = chance_level(y) if task is CLASSES else 0.0
        self.memory = Memory()

    @property
    def probes(self) -> bool:
        """Return whether probes run."""
        return self.mode != "off" and self.threat is not None

    def set_baseline(self, probe: ProbeAccuracy) -> None:
        """Record the probe before the first step.

        Args:
            probe: the probe.
        """
        self.memory = replace(self.memory, best=probe.pgd_accuracy)

    def measure(self, model: nn.Module) -> ProbeAccuracy:
        """Probe the model.

        Args:
            model: the network; its modes are restored.
        """
        assert self.threat is not None
        return measure_probe(model, self.x, self.y, self.threat, self.task)

    def measure_clean(self, model: nn.Module) -> LearningRecord:
        """Measure the model on the clean examples.

        Args:
            model: the network; its modes are restored.
        """
        if self.task is CLASSES:
            return measure_clean(model, self.x, self.y)
        return measure_learning(model, self.x, self.y, self.task)

    def detect_not_learning(self, record: LearningRecord, when: str) -> str | None:
        """Return the sign that the network has learned nothing, or None.

        Args:
            record: of `measure_clean`.
            when: of the training, for the sentence.
        """
        if self.task is CLASSES:
            return detect_not_learning(record, self.y, when)
        return detect_constant_outputs(record, len(self.x), when)

    def detect_blow_up(self, record: LearningRecord, when: str) -> str | None:
        """Return the sign that the network has diverged, or None.

        Args:
            record: of `measure_clean`.
            when: of the training, for the sentence.
        """
        if self.task is CLASSES:
            return detect_blow_up(record.loss, self.y, when)
        return detect_large_loss(record, when)

    def assess(self, probe: ProbeAccuracy, *, one_step: bool) -> tuple[str | None, str | None]:
        """Return the signs of overfitting and of label leaking, each only at its start; record the probe.

        Args:
            probe: the probe.
            one_step: whether training attacks with one step.

        Returns:
            A message or None for each.
        """
        best = self.memory.best or 0.0
        ill = detect_catastrophic_overfitting(probe, best, one_step=one_step)
        leak = detect_label_leaking(probe, self.chance)
        messages = (ill if not self.memory.ill else None, leak if not self.memory.leaking else None)
        best = best if ill else max(best, probe.pgd_accuracy)
        self.memory = replace(self.memory, best=best, ill=ill is not None, leaking=leak is not None)
        return messages

    def count_repair(self) -> None:
        """Record a repair: the model is as healthy as at the snapshot."""
        self.memory = replace(self.memory, ill=False, repairs=self.memory.repairs + 1)

    def start_ramp(self, step: int) -> None:
        """Let eps grow from 0 again; the best accuracy under PGD so far was that of an untrained network.

        Args:
            step: steps of the whole run that are done.
        """
        self.memory = replace(self.memory, ramp=step, best=0.0, repairs=self.memory.repairs + 1)

    def eps_share(self, moment: Moment) -> float:
        """Return the share of eps that the guard allows: 1, or a ramp over half of what was left when it started.

        Args:
            moment: position of the step in training.

        Example:
            >>> import torch
            >>> guard = Guard("repair", 10, torch.zeros(2, 1), torch.tensor([0, 1]), None)
            >>> guard.start_ramp(20)
            >>> [guard.eps_share(Moment(epoch=1, step=step, steps=100)) for step in (20, 40, 60, 99)]
            [0.0125, 0.5125, 1.0, 1.0]
        """
        start = self.memory.ramp
        if start is None:
            return 1.0
        done = max(0, moment.step - start)  # 0 in a dry run, which is always at the first step
        return min(1.0, 2 * (done + 0.5) / (moment.steps - start))

    def state_dict(self) -> dict[str, Any]:
        """Return the record of the probes, which a resumed run needs."""
        return asdict(self.memory)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Args:
            state: the state.
        """
        self.memory = Memory(**state)
