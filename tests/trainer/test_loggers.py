"""What TensorBoard, MLflow and Weights & Biases are told, by stand-ins that write down each call."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import advreg
from advreg.errors import ConfigError, MissingExtraError
from advreg.trainer import events, loggers
from tests.training import small


class Recorder:
    """Writes down what is called on it, whatever that is; every call returns the recorder."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return call

    def named(self, name):
        return [(arguments, options) for called, arguments, options in self.calls if called == name]


STORY = [
    events.Started(Path("runs/a"), epochs=2, steps=5, seconds=1.0),
    events.Step(1, 5, 5, 0.5, 0.9),
    events.Guarded(1, 5, "label leaking", "accuracy is 90%", "none"),
    events.Checkpointed(
        1, 2, 5, 5, {"epoch": 1, "step": 5, "loss": 0.5, "robust_accuracy": None, "seconds": 2.0}, True, 1.0
    ),
    events.Finished(2, 1, 5, 5),
]
FIGURES = {"epoch": 1.0, "loss": 0.5, "seconds": 2.0}


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=made.SummaryWriter))
    monkeypatch.setitem(sys.modules, "mlflow", made)
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


def tell(sink):
    for event in STORY:
        sink(event)


def test_tensorboard_draws_every_figure_over_the_steps(recorder):
    tell(loggers.tensorboard())
    assert recorder.named("SummaryWriter") == [(("runs/a/tensorboard",), {})]
    assert {arguments for arguments, _ in recorder.named("add_scalar")} == {(n, v, 5) for n, v in FIGURES.items()}
    assert recorder.named("add_text")[0][0][1].startswith("label leaking in epoch 1, step 5: accuracy is 90%")
    assert len(recorder.named("close")) == 1


def test_mlflow_has_a_run_for_each_of_ours(recorder):
    tell(loggers.mlflow())
    assert recorder.named("start_run") == [((), {"run_name": "a"})]
    assert recorder.named("log_metrics") == [((FIGURES,), {"step": 5})]
    assert recorder.named("set_tag")[0][0][0] == "guard.1.5"
    assert recorder.named("end_run") == [(("FINISHED",), {})]


def test_wandb_has_a_run_for_each_of_ours(recorder):
    tell(loggers.wandb(project="here"))
    assert recorder.named("init") == [((), {"project": "here", "name": "a", "dir": "runs/a"})]
    assert recorder.named("log") == [((FIGURES,), {"step": 5})]
    assert recorder.named("alert")[0][1]["title"] == "label leaking"
    assert recorder.named("finish") == [((), {"exit_code": 0})]


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("tensorboard", ("close", (), {})),
        ("mlflow", ("end_run", ("FAILED",), {})),
        ("wandb", ("finish", (), {"exit_code": 1})),
    ],
)
def test_what_is_open_is_closed_as_failed_when_training_fails(data, tmp_path, recorder, name, closed):
    def stop(event):
        if isinstance(event, events.Checkpointed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advreg.fit(
            small.config(data, tmp_path / "run"), on_event=loggers.combine_loggers(loggers.LOGGERS.build(name), stop)
        )
    assert recorder.calls[-1] == closed


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_where_nothing_is_left_to_train_nothing_is_opened(recorder, name):
    sink = loggers.LOGGERS.build(name)
    before = list(recorder.calls)
    for event in (events.Started(Path("runs/a"), epochs=2, steps=5, step=10), events.Finished(2, 1, 5, 5)):
        sink(event)
    assert recorder.calls == before


def test_a_sink_that_fails_at_the_end_does_not_hide_why(data, tmp_path):
    def watch(event):
        if isinstance(event, events.Checkpointed):
            raise ZeroDivisionError("first")
        if isinstance(event, events.Failed):
            raise ValueError(event.message)

    with pytest.raises(ZeroDivisionError, match="first"):
        advreg.fit(small.config(data, tmp_path / "run"), on_event=watch)


def test_an_mlflow_that_does_not_answer_is_one_line(monkeypatch):
    def search_experiments(max_results):
        raise RuntimeError("unsupported URI\nand more")

    deaf = SimpleNamespace(search_experiments=search_experiments, get_tracking_uri=lambda: "foo://bar")
    monkeypatch.setitem(sys.modules, "mlflow", deaf)
    said = r"MLflow cannot log to foo://bar: RuntimeError: unsupported URI; set MLFLOW_TRACKING_URI"
    with pytest.raises(ConfigError, match=said) as error:
        loggers.mlflow()
    assert "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_itself_writes_its_files(data, tmp_path):
    run = advreg.fit(small.config(data, tmp_path / "run", "train.epochs=1"), on_event=loggers.tensorboard())
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(("name", "module"), [("mlflow", "mlflow"), ("wandb", "wandb"), ("tensorboard", "tensorboard")])
def test_a_missing_library_is_one_line(monkeypatch, name, module):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'advreg\[{name}\]'") as error:
        loggers.LOGGERS.build(name)
    assert "\n" not in str(error.value)


def test_an_unknown_logger_is_one_line():
    with pytest.raises(ConfigError, match="Did you mean 'wandb'"):
        loggers.LOGGERS.build("wandbb")
