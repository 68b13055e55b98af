"""The public names: all there, lazy, and none of them costs an import of torch before it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import advreg
from tests import processes

ROOMS = {"attacks", "data", "diagnosis", "evaluation", "hardening", "language", "models", "report", "runs", "training"}


def test_every_public_name_resolves() -> None:
    for package in (advreg, advreg.language):
        assert all(getattr(package, name) is not None for name in package.__all__)
    assert advreg.load_model.__module__.startswith("advreg.models")


def test_dir_shows_the_public_api_alone() -> None:
    assert dir(advreg) == sorted(advreg.__all__)
    assert {"attach_stub", "annotations", "TYPE_CHECKING"}.isdisjoint(dir(advreg))


def test_rooms_are_reachable_after_one_import() -> None:
    code = f"import advreg; [getattr(advreg, room).__name__ for room in {sorted(ROOMS)}]"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pdg'"):
        advreg.pdg  # noqa: B018


@pytest.mark.parametrize(
    "code",
    ["import advreg", "import advreg.cli.app", "import advreg.report", "import advreg.config", "import advreg.results"],
)
def test_light_rooms_import_no_torch(code: str) -> None:
    check = f"import sys; {code}; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True)


RENAMED = [
    ("advreg.attacks", "annealed", "cosine_pgd"),
    ("advreg.attacks", "carlini", "carlini_wagner"),
    ("advreg.attacks", "nearest", "minimum_distance"),
    ("advreg.data", "Streamed", "StreamingDataset"),
    ("advreg.diagnosis", "Adapted", "AdaptiveResult"),
    ("advreg.evaluation", "Stage", "ProtocolStage"),
    ("advreg.language", "Request", "HarmfulRequest"),
    ("advreg.language.sweep.plan", "parts", "split_data"),
    ("advreg.language.sweep.run", "Measuring", "SweepEvaluation"),
    ("advreg.models", "Target", "FastCopy"),
    ("advreg.training.recipes", "for_examples", "bind_ids"),
]


@pytest.mark.parametrize(("package", "old", "new"), RENAMED)
def test_an_old_public_name_warns_once_and_names_the_new(package: str, old: str, new: str) -> None:
    code = f"""
import importlib, warnings
package = importlib.import_module({package!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first, second = package.{old}, package.{old}
assert first is second is package.{new}
messages = [str(each.message) for each in caught if each.category is DeprecationWarning]
assert messages == ["{package}.{old} is now {package}.{new}"], caught
"""
    done = processes.run(code=code)
    assert done.returncode == 0, done.stderr


MOVED = tomllib.loads((Path(advreg.__file__).parent / "moved.toml").read_text())


def test_old_module_names_import() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for old, names in MOVED.items():
            module = importlib.import_module(old)
            for name in names.keys() - {"module"}:
                assert getattr(module, name) is not None


def test_an_old_module_replaces_no_function_of_its_name() -> None:
    code = """
import advreg.attacks
kept = advreg.attacks.apgd
from advreg.attacks.apgd import on_sphere
assert advreg.attacks.apgd is kept and callable(kept)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_an_old_module_warns_and_names_the_new_one() -> None:
    sys.modules.pop("advreg.attacks.engine", None)
    with pytest.warns(DeprecationWarning, match=r"advreg\.attacks\.engine is now advreg\.attacks\.search"):
        importlib.import_module("advreg.attacks.engine")


def test_a_name_that_an_old_module_lacks_is_an_attribute_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module("advreg.attacks.engine")
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'; it is now advreg\.attacks\.search"):
        module.nothing  # noqa: B018
