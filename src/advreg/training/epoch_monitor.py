"""Monitor of an epoch: reports progress; detects and repairs divergence, overfitting and training that learns nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from advreg import distributed
from advreg.errors import TrainingError
from advreg.trainer.divergence import divergence_error, nonfinite_loss, nonfinite_tensors, overflow
from advreg.trainer.events import Guarded, OnEvent, Step
from advreg.training import learning
from advreg.training.inner.escalation import EscalatingAttack, next_stronger
from advreg.training.overfitting_monitor import ProbeAccuracy
from advreg.training.rollback import restart, roll_back, slow_down, snapshot_state
from advreg.training.setup import TrainState
from advreg.training.step import Tally

_REPORTS = 50  # reports per epoch; reading the loss synchronises the device
_FEWEST = 50  # steps after which an untrained network is reported
_REPAIRS = 8  # in one run; after these, a lower learning rate does not help
_RESTARTED = "restarted from the initial weights; eps grows from 0 over half of what is left"


class EpochMonitor:
    """Monitors an epoch from its first step to its last.

    Args:
        session: the run.
        epoch: number of the epoch, from 1.
        emit: called with each event.

    Attributes:
        log: the guard's lines for metrics.jsonl.
    """

    def __init__(self, session: TrainState, epoch: int, emit: OnEvent) -> None:
        self.session, self.guard, self.epoch, self.emit = session, session.guard, epoch, emit
        self.steps = session.steps
        self.log: list[dict[str, Any]] = []
        self.last = 0
        self.meant = set(
            nonfinite_tensors(session.model.state_dict())
        )  # before any step: the -inf of an attention's mask
        if self.guard.probes and self.guard.memory.best is None:
            self.guard.set_baseline(self._measure_probe())
        self.healthy = snapshot_state(session, Tally()) if self.guard.mode == "repair" else None

    def after_step(self, tally: Tally, step: int) -> Tally:
        """Check the run after a step where a check is due; return the tally to continue with.

        Args:
            tally: sums of the epoch so far.
            step: steps of the epoch that are done.

        Raises:
            TrainingError: training diverged, and repairs are off or did not help.
        """
        last, when = step == self.steps, self._milestone(step)
        self.last = step
        probing = last or (self.guard.mode != "off" and step % self.guard.every == 0)
        reporting = last or step % max(1, self.steps // _REPORTS) == 0
        if not (probing or reporting or when):
            return tally
        if probing or when:
            distributed.broadcast_buffers(self.session.model)
        whole = tally.of_all(self.session.device)
        if (message := self._divergence(whole, step, thorough=probing)) is not None:
            return self._repair_divergence(message, tally, step)
        if when and self._restart_if_not_learning(step, when):
            return _paid(Tally(), tally)
        if reporting:
            self.emit(Step(self.epoch, step, self.steps, whole.loss, whole.accuracy))
        return self._probe(tally, step) if probing else tally

    def _milestone(self, step: int) -> str:
        """Return which milestone of the whole training was passed since the last call; empty where none was."""
        before, epochs = (self.epoch - 1) * self.steps, self.session.config.train.epochs
        third, end = max(_FEWEST, math.ceil(epochs * self.steps / 3)), epochs * self.steps
        passed = range(before + self.last + 1, before + step + 1)
        if end in passed:
            return learning.AT_END
        return "after a third of the training" if third in passed else ""

    def _restart_if_not_learning(self, step: int, when: str) -> bool:
        """Return whether the run started again, because the network predicts as a constant one does; warn if it does."""
        if self.guard.mode == "off":
            return False
        found = self.guard.measure_clean(self.session.model)
        agreed = learning.LearningRecord(
            *distributed.values_of_main(*asdict(found).values(), device=self.session.device)
        )
        message = self.guard.detect_not_learning(agreed, when)
        restarts = message is not None and when != learning.AT_END and self._can_ramp()
        if restarts:
            restart(self.session)
            self.guard.start_ramp((self.epoch - 1) * self.steps + step)
            self.healthy = snapshot_state(self.session, Tally())
        if message is not None:
            self._report(step, learning.NOT_LEARNING, message, _RESTARTED if restarts else learning.REMEDY)
        return restarts

    def _can_ramp(self) -> bool:
        """Return whether the guard may let eps grow from 0, which it does once in a run that attacks."""
        return self.guard.mode == "repair" and self.guard.threat is not None and self.guard.memory.ramp is None

    def _divergence(self, tally: Tally, step: int, *, thorough: bool) -> str | None:
        """Return a description of a loss or weight that is not finite, which may not reach a checkpoint, or of a huge loss."""
        if (problem := nonfinite_loss(tally.loss)) is not None:
            return f"{problem} at epoch {self.epoch}, step {step}"
        return self._overflow(f"after step {step} of epoch {self.epoch}") if thorough else None

    def _overflow(self, when: str) -> str | None:
        if (problem := overflow(self.session.model.state_dict(), self.meant)) is not None:
            return f"{problem} {when}"
        found = self.guard.measure_clean(self.session.model)
        agreed = learning.LearningRecord(
            *distributed.values_of_main(*asdict(found).values(), device=self.session.device)
        )
        if not math.isfinite(agreed.loss):  # products of large finite weights can overflow
            return f"the network returns NaN or infinity {when}"
        return None if self.guard.mode == "off" else self.guard.detect_blow_up(agreed, when)

    def _repair_divergence(self, message: str, tally: Tally, step: int) -> Tally:
        if self.healthy is None or self.guard.memory.repairs >= _REPAIRS:
            raise _diverged(self.session, message)
        roll_back(self.session, self.healthy)
        self._report(step, "divergence", message, f"rolled back, learning rate halved to {slow_down(self.session):.3g}")
        self.guard.count_repair()
        return _paid(self.healthy.tally, tally)

    def _probe(self, tally: Tally, step: int) -> Tally:
        if self.guard.probes:
            probe = self._measure_probe()
            overfitting, leak = self.guard.assess(probe, one_step=self.session.attack.takes_one_step)
            figures = asdict(probe)
            if leak is not None:
                self._report(step, "label leaking", leak, "none: more steps or a smaller eps would help", figures)
            if overfitting is not None:
                return self._repair_overfitting(overfitting, tally, step, figures)
        if self.healthy is not None and not self.guard.memory.ill:
            self.healthy = snapshot_state(self.session, tally)
        return tally

    def _measure_probe(self) -> ProbeAccuracy:
        measured = self.guard.measure(self.session.model)
        return ProbeAccuracy(*distributed.values_of_main(*asdict(measured).values(), device=self.session.device))

    def _repair_overfitting(self, message: str, tally: Tally, step: int, figures: dict[str, float]) -> Tally:
        attack = self.session.attack
        if self.healthy is None or next_stronger(attack.section) is None:
            self._report(step, "catastrophic overfitting", message, f"none: {_remedy(attack)}", figures)
            return tally
        roll_back(self.session, self.healthy)
        attack.strengthen()
        self.guard.count_repair()
        before = _paid(self.healthy.tally, tally)
        self.healthy = snapshot_state(self.session, before)
        self._report(step, "catastrophic overfitting", message, f"rolled back, attack is now {attack}", figures)
        return before

    def _report(
        self, step: int, trouble: str, message: str, action: str, figures: dict[str, float] | None = None
    ) -> None:
        self.emit(Guarded(self.epoch, step, trouble, message, action))
        where = {"event": "guard", "epoch": self.epoch, "step": step}
        self.log.append({**where, "trouble": trouble, learning.MESSAGE: message, "action": action, **(figures or {})})


def _paid(before: Tally, now: Tally) -> Tally:
    """Return an earlier tally with the passes spent since, which count although their steps are undone."""
    return replace(before, forwards=now.forwards, backwards=now.backwards)


def _remedy(attack: EscalatingAttack) -> str:
    """Return the remedy against overfitting where the guard takes no action."""
    if next_stronger(attack.section) is None:
        return f"no stronger attack follows {str(attack)!r}; try a lower optimizer.lr, or pgd with more steps"
    return "train.guard = 'repair' would go back and on"


def _diverged(session: TrainState, what: str) -> TrainingError:
    lr = session.optimizer.param_groups[0]["lr"]
    guard = "" if session.guard.mode == "repair" else " or train.guard = 'repair'"
    remedy = f"lower optimizer.lr (now {lr:.3g}), set train.gradient_clip{guard}"
    return divergence_error(what, remedy, "the last complete epoch")
