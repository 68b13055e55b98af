"""The configuration of a text classifier's training: frozen dataclasses <-> TOML."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from advreg.config.base import BaseConfig
from advreg.config.sections import STRICT, Count, Radius
from advreg.language.classifiers.training import ClassifierTraining, Method
from advreg.language.config import Rate, Share, Weight, Whole


@dataclass(frozen=True)
class TextModelConfig:
    """The classifier.

    Attributes:
        name: a folder, ``hf:org/name`` or ``minilm``.
        num_labels: number of classes of a new head; those of the trained head or of the data if 0.
        tokens: length limit of a text in tokens; all positions of the model if 0.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Annotated[str, Field(min_length=1)] = "minilm"
    num_labels: Whole = 0
    tokens: Whole = 0


@dataclass(frozen=True)
class TextDataConfig:
    """The training data.

    Attributes:
        train: a .csv, .json or .jsonl file.
        text: column of the texts.
        label: column of the classes: numbers from 0, or names.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    train: str = ""
    text: str = "text"
    label: str = "label"


@dataclass(frozen=True)
class TextTrainConfig:
    """Method, hyperparameters and output, as `advreg.language.classifiers.training.ClassifierTraining` describes them.

    Attributes:
        method: ``"plain"``, ``"freelb"``, ``"smart"`` or ``"alum"``.
        epochs: passes over the data.
        batch_size: texts in one batch.
        lr: initial learning rate, which decays linearly to zero.
        weight_decay: weight decay of AdamW.
        eps: radius of the perturbation of embeddings, as a fraction of their mean norm.
        steps: gradient steps on the perturbation in each training step.
        weight: weight of the term of smart and alum.
        clean_share: fraction of the training steps before the term of alum begins.
        device: device of the network.
        out: run folder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    method: Method = "plain"
    epochs: Count = 2
    batch_size: Count = 32
    lr: Rate = 2e-4
    weight_decay: Weight = 0.01
    eps: Radius = 0.1
    steps: Count = 2
    weight: Weight = 1.0
    clean_share: Share = 0.5
    device: str = "cpu"
    out: Annotated[str, Field(min_length=1)] = "runs/text"


@dataclass(frozen=True)
class TextConfig(BaseConfig):
    """The configuration of a training run, which determines its files to the byte on one machine.

    Attributes:
        seed: seed of head, order, dropout and perturbations.
        model: the classifier.
        data: training data.
        train: method, hyperparameters and output.

    Example:
        >>> TextConfig().replace_with(["train.method=freelb"]).fitting.method
        'freelb'
    """

    seed: int = 0
    model: TextModelConfig = field(default_factory=TextModelConfig)
    data: TextDataConfig = field(default_factory=TextDataConfig)
    train: TextTrainConfig = field(default_factory=TextTrainConfig)

    @property
    def fitting(self) -> ClassifierTraining:
        """The settings of the training loop."""
        names = {each.name for each in fields(ClassifierTraining)} & vars(self.train).keys()
        return ClassifierTraining(seed=self.seed, **{name: getattr(self.train, name) for name in names})
