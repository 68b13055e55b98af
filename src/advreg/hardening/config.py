"""``harden.toml``: the configuration of a workspace, every key with its type, its limits and its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field

from advreg.config import toml
from advreg.config.base import BaseConfig
from advreg.config.sections import STRICT, Count
from advreg.errors import ConfigError
from advreg.hardening.data_selection import DAY, Caps
from advreg.hardening.image_decoding import Limits
from advreg.plugins import check_file_names

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]

FILE = "harden.toml"


@dataclass(frozen=True)
class StoreConfig:
    """Where examples are stored: ``url`` of SQLAlchemy, ``blobs`` a folder or an fsspec URL; "" = in the workspace.

    A URL with a password is better kept elsewhere: ``env:NAME`` reads the environment, ``file:PATH`` a file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    url: str = field(default="", repr=False)
    blobs: str = field(default="", repr=False)


@dataclass(frozen=True)
class HoldoutConfig:
    """Which data: ``clean`` training examples (0 = all); the gate alone uses ``sealed`` test examples from ``sealed_from``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "mnist"
    clean: Annotated[int, Field(ge=0)] = 0
    sealed: Count = 2000
    sealed_from: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class RetrainConfig:
    """How challengers are trained: ``attacked`` is the attacked share of the clean loss.

    ``replay`` is the wanted share of the loss of the submitted examples; they get less where the caps allow less.

    ``epochs`` is per attack of the list, so that a longer list trains longer.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    epochs: Count = 2
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive = 1e-3
    attacked: Share = 0.5
    replay: Share = 0.1
    device: str = "auto"


@dataclass(frozen=True)
class CapsConfig:
    """Largest shares of a snapshot and of the training loss; see `advreg.hardening.data_selection.Caps`.

    ``reviewer`` is the largest share of the loss of what one reviewer labelled, ``label_loss`` of one class;
    Examples of the newest ``window_days`` get half the room.
    ``reviewers`` is how many reviewers must agree before an example is accepted; 1 is for a team of one, and the step says so.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    total: Share = 0.05
    principal: Share = 0.01
    label: Share = 0.01
    customer: Share = 0.03
    anonymous: Share = 0.005
    reviewer: Share = 0.03
    label_loss: Share = 0.005
    cluster: Count = 1
    quarantine_days: Annotated[float, Field(ge=0)] = 7.0
    window_days: Positive = 30.0
    reviewers: Annotated[int, Field(ge=1, le=2)] = 2


@dataclass(frozen=True)
class GateConfig:
    """What a challenger must show; ``gates`` is how often one sealed set may be used, each time at level alpha / gates.

    ``chain_margin`` is the accepted loss of clean accuracy since the trusted base (0 = twice ``clean_margin``).
    ``incident_reviewers`` must agree on an example before the gate demands it (0 = one more than ``caps.reviewers``), so that
    the reviewers that suffice to train on an example cannot block every challenger with a false label.
    ``diagnose``: if one of the attacks is a norm ball, a diagnosis must call its figure TRUSTED.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    clean_margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    slice_margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    chain_margin: Share = 0.0
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    gates: Count = 10
    classes: list[int] = field(default_factory=list)
    waivers: list[str] = field(default_factory=list)
    incident_reviewers: Annotated[int, Field(ge=0)] = 0
    diagnose: bool = True

    @property
    def chain(self) -> float:
        """The accepted loss of clean accuracy since the trusted base."""
        return self.chain_margin or min(2 * self.clean_margin, 0.99)


@dataclass(frozen=True)
class ServiceConfig:
    """Limits of the service: sizes of an upload and of a text; examples per second and at once for each token.

    ``header_seconds`` and ``body_seconds`` are the time for a request to arrive; ``connections`` may be open at once,
    ``connections_per_address`` from one address: raise it where a proxy in front makes all clients one address. One address,
    and one token from anywhere, may send ``failed_logins`` wrong tokens a minute. A token may keep ``token_bytes``, all
    together ``total_bytes``; `advreg harden prune` deletes the bytes of rejected, revoked and unreviewed examples after
    ``keep_days`` (0 = never).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    max_bytes: Count = 4 << 20
    max_pixels: Count = 4096 * 4096
    max_text: Count = 64 << 10
    rate: Positive = 200.0
    burst: Positive = 1000.0
    header_seconds: Positive = 10.0
    body_seconds: Positive = 60.0
    connections: Count = 512
    connections_per_address: Count = 128
    failed_logins: Count = 20
    token_bytes: Count = 1 << 30
    total_bytes: Count = 10 << 30
    keep_days: Annotated[float, Field(ge=0)] = 180.0


@dataclass(frozen=True)
class SigningConfig:
    """Keys of ed25519: ``key`` is the file of the private key, ``public`` the public key; "" = nothing is signed, verified."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    key: str = ""
    public: str = ""


@dataclass(frozen=True)
class MlflowConfig:
    """The MLflow model registry that receives the aliases; "" = none."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    uri: str = ""
    name: str = "advreg"


@dataclass(frozen=True)
class HardeningConfig(BaseConfig):
    """The whole of ``harden.toml``; ``attacks`` lists the attacks of training and gate, such as ``linf:0.1 spatial:30:3``.

    A workspace ``keeps`` images or texts. With texts, ``data.name`` is a file of trusted prompts, one per line, and
    ``attacks`` and ``train`` are not used: language models are trained and evaluated by `advreg language`.
    """

    keeps: Literal["images", "texts"] = "images"
    seed: int = 0
    attacks: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["linf:8/255"])
    store: StoreConfig = field(default_factory=StoreConfig)
    data: HoldoutConfig = field(default_factory=HoldoutConfig)
    train: RetrainConfig = field(default_factory=RetrainConfig)
    caps: CapsConfig = field(default_factory=CapsConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    signing: SigningConfig = field(default_factory=SigningConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)

    @classmethod
    def load(cls, path: str | Path, *, trust_code: bool = False) -> Self:
        """Read ``harden.toml``; `check_names` comes later, because most verbs load neither data nor models.

        Args:
            path: the file.
            trust_code: allow names of code (``pkg.module:factory``).

        Raises:
            ConfigError: the file is missing, is not TOML, or holds a key or a value that is not allowed.
        """
        return cls.from_dict(toml.read(path), source=str(path))

    def check_names(self) -> None:
        """Check that data and attacks are not code, which only ``--trust-code`` allows.

        Raises:
            ConfigError: one of them is the name of code.
        """
        check_file_names({"data": {"name": self.data.name}, "attacks": self.attacks}, FILE, ConfigError)

    @property
    def incident_reviewers(self) -> int:
        """How many reviewers must agree on an example before the gate demands it of every challenger."""
        return self.gate.incident_reviewers or self.caps.reviewers + 1

    @property
    def bounds(self) -> Caps:
        """The caps of selection."""
        caps = self.caps
        tiers = {"customer": caps.customer, "anonymous": caps.anonymous}
        wait = caps.quarantine_days * DAY
        return Caps(
            caps.total,
            caps.principal,
            caps.label,
            tiers,
            caps.cluster,
            wait,
            caps.reviewer,
            caps.label_loss,
            caps.window_days * DAY,
        )

    def limits(self, shape: tuple[int, int, int] | None) -> Limits:
        """Return the limits of one upload.

        Args:
            shape: required ``(C, H, W)`` of an image; None accepts any.
        """
        largest = self.service.max_text if self.keeps == "texts" else self.service.max_bytes
        return Limits(largest, self.service.max_pixels, shape)
