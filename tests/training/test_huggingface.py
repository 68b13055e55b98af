"""One line around Hugging Face's Trainer: what it then minimises, against the same steps written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import advreg
from advreg.errors import DataError
from advreg.training import integrations
from tests.training.test_regularizer import THREAT, images

transformers = pytest.importorskip("transformers", reason="needs advreg[language]")
pytest.importorskip("accelerate", reason="needs advreg[language]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library, about pinned memory and its own future
MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


def vision(seed=0):
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=4, patch_size=2,
        num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def rows(scale=lambda x: x):
    x, y = images(8)
    return [{"pixel_values": scale(a), "labels": int(b)} for a, b in zip(x, y, strict=True)]


def trainer(model, data, folder, parts=1):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no",
        num_train_epochs=1, per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts, learning_rate=0.1,
        optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, per_device_eval_batch_size=8,
    )  # fmt: skip
    return transformers.Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)


def written_out(weight, scale=lambda x: x):
    """The weights after one step on all eight images; ``scale`` is how the network wants pixels."""
    model, (x, y) = vision().train(), images(8)
    net = nn.Sequential(Scale(scale), integrations.Logits(model, "pixel_values"))
    x_adv = advreg.attacks.craft(net.eval(), x, y, THREAT, steps=1, start="zero").x_adv
    model.train()
    loss = nn.functional.cross_entropy
    (loss(net(x), y) + weight * loss(net(x_adv), y)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return model


class Scale(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale(x)


def same(a, b):
    return all(torch.allclose(p, q, atol=1e-5) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("parts", [1, 2])
def test_the_hook_adds_the_term_to_the_loss_of_the_trainer(tmp_path, parts):
    model = vision()
    integrations.huggingface(trainer(model, rows(), tmp_path, parts), THREAT, multiplier=2.0).train()
    assert same(model, written_out(2.0))
    assert not same(model, written_out(1.0))


def test_normalised_images_are_attacked_in_pixels(tmp_path):
    def normalised(x):
        return (x - 0.5) / 0.5

    model = vision()
    made = trainer(model, rows(normalised), tmp_path)
    integrations.huggingface(made, THREAT, multiplier=2.0, mean=MEAN, std=STD).train()
    assert same(model, written_out(2.0, normalised))


def test_an_evaluation_keeps_its_own_loss(tmp_path):
    made = trainer(vision(), rows(), tmp_path)
    before = made.evaluate()["eval_loss"]
    assert integrations.huggingface(made, THREAT, multiplier=2.0).evaluate()["eval_loss"] == before


def test_normalised_images_without_mean_and_std_are_rejected(tmp_path):
    made = trainer(vision(), rows(lambda x: (x - 0.5) / 0.5), tmp_path)
    with pytest.raises(DataError, match="outside the box"):
        integrations.huggingface(made, THREAT).train()


def test_another_name_of_the_images_is_asked_for(tmp_path):
    made = integrations.huggingface(trainer(vision(), rows(), tmp_path), THREAT, inputs="images")
    with pytest.raises(DataError, match=r"a batch holds .*, not 'images'; give inputs="):
        made.train()
