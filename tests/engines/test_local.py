"""Worker processes: each result once, even if some die; a unit that kills its workers is reported, as is a model's error."""

from __future__ import annotations

from functools import partial

import pytest

from advreg.engines import engine_of, run_in_process
from advreg.engines.local import run_in_processes
from advreg.errors import ConfigError, ModelError, RunError
from tests.engines import letters

WORK = [("abc", ()), ("def", ("d",)), ("ghi", ()), ("jkl", ())]


def test_lost_workers_repeat_no_result_that_arrived(tmp_path) -> None:
    run_unit = letters.Dying(tmp_path, "cek")
    found = list(run_in_processes(WORK, run_unit, workers=2))
    assert sorted(found) == list("abcefghijkl")
    assert sorted((tmp_path / "letters").read_text()) == sorted(found)  # no letter was spelled twice
    assert sorted(path.name for path in tmp_path.glob("death-*")) == ["death-c", "death-e", "death-k"]


def test_unit_that_kills_three_workers_is_reported() -> None:
    with pytest.raises(RunError, match=r"3 workers died in the same unit of work \('abc'\).*run the command again"):
        list(run_in_processes(WORK[:1], letters.die, workers=1))


def test_error_of_a_model_reaches_the_driver() -> None:
    with pytest.raises(ModelError, match="no letters in abc"):
        list(run_in_processes(WORK, letters.refuse, workers=1))


def test_what_cannot_be_sent_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"cannot be sent to another process .*torchrun or --shard"):
        list(run_in_processes(WORK, lambda unit, done: iter(unit), workers=1))


def test_engines_by_name() -> None:
    assert engine_of(None) is run_in_process
    assert isinstance(engine_of("local", 3), partial)
    for arguments, message in (
        (("slurm",), "engine is 'slurm'; allowed: local, ray"),
        ((None, 2), "workers is 2, but no engine is given"),
        (("local", 0), "workers is 0; give 1 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine_of(*arguments)
