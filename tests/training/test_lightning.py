"""Two lines in a loop of Lightning: what it then minimises, step by step, against the same loop written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import advreg
from advreg.errors import ConfigError
from advreg.training import integrations
from tests.training.test_regularizer import THREAT, attacked_loss, images, network

lightning = pytest.importorskip("lightning.pytorch", reason="needs advreg[lightning]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library, about workers, loggers and its own future


class Plain(lightning.LightningModule):
    """A loop that knows nothing of adversaries; ``answer`` is how its step hands the loss over."""

    def __init__(self, answer=lambda loss: loss):
        super().__init__()
        self.network, self.answer, self.modes = network(), answer, set()

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return self.answer(F.cross_entropy(self(batch[0]), batch[1]))

    def validation_step(self, batch, batch_idx):
        self.modes.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        self.log("clean_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(module, callback, folder, **options):
    loader = DataLoader(TensorDataset(*images(8)), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[callback], **options,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return trainer


def written_out(weight, at_once=1):
    """The weights after the same steps of a plain loop."""
    net, (x, y) = network(), images(8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for k, (xs, ys) in enumerate(zip(x.split(4), y.split(4), strict=True), 1):
        ((F.cross_entropy(net(xs), ys) + weight * attacked_loss(net, xs, ys)) / at_once).backward()
        if k % at_once == 0:
            optimizer.step()
            optimizer.zero_grad()
    return net


def same(a, b):
    return all(torch.allclose(p, q, atol=1e-7) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("answer", [lambda loss: loss, lambda loss: {"loss": loss, "more": 1}])
def test_the_callback_adds_the_term_to_the_loss_of_the_loop(tmp_path, answer):
    module = Plain(answer)
    fitted(module, integrations.lightning(THREAT, multiplier=0.5), tmp_path)
    assert same(module.network, written_out(0.5))
    assert not same(module.network, written_out(0.0))


def test_accumulation_divides_the_term_as_the_loss(tmp_path):
    module = Plain()
    fitted(module, integrations.lightning(THREAT, multiplier=0.5), tmp_path, accumulate_grad_batches=2)
    assert same(module.network, written_out(0.5, at_once=2))


def test_a_step_that_skips_its_batch_still_does(tmp_path):
    module = Plain(lambda loss: None)
    fitted(module, integrations.lightning(THREAT), tmp_path)
    assert same(module.network, network())


def test_the_loop_is_its_own_again_afterwards(tmp_path):
    module = Plain()
    fitted(module, integrations.lightning(THREAT), tmp_path)
    assert "training_step" not in vars(module)


def test_a_loop_that_fails_is_its_own_again_too(tmp_path):
    def fail(loss):
        raise ZeroDivisionError

    module = Plain(fail)
    with pytest.raises(ZeroDivisionError):
        fitted(module, integrations.lightning(THREAT, multiplier=0.5), tmp_path)
    module.answer = lambda loss: loss
    fitted(module, integrations.lightning(THREAT, multiplier=0.5), tmp_path)
    assert same(module.network, written_out(0.5)), "the term is there once"


def test_robust_accuracy_is_measured_where_lightning_forbids_gradients(tmp_path):
    module, loader = Plain(), DataLoader(TensorDataset(*images(8)), batch_size=4)
    callback = integrations.lightning(THREAT, network=lambda module: module.network, validation_steps=3)
    trainer = fitted(module, callback, tmp_path)
    found = advreg.pgd(module.network.eval(), *images(8), THREAT, steps=3)
    robust = pytest.approx(float((~found.broken).float().mean()))
    assert float(trainer.callback_metrics["robust_accuracy"]) == robust
    assert trainer.validate(module, loader, verbose=False)[0]["robust_accuracy"] == robust
    assert module.modes == {(False, False), (False, True)}  # without gradients, and in inference mode


def test_a_loop_that_optimises_by_hand_is_rejected(tmp_path):
    module = Plain()
    module.automatic_optimization = False
    with pytest.raises(ConfigError, match="Plain optimises by hand, so its training_step returns no loss") as error:
        fitted(module, integrations.lightning(THREAT), tmp_path)
    assert "\n" not in str(error.value)


def test_any_recipe_goes(tmp_path):
    module = Plain()
    fitted(module, integrations.lightning(THREAT, recipe=advreg.recipes.trades(beta=6.0), multiplier=1.0), tmp_path)
    assert all(torch.isfinite(weight).all() for weight in module.parameters())
    assert not same(module.network, network())
