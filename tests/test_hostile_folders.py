"""A run folder of a stranger: no verb runs its code, follows its links, or takes the memory that it names."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

import advreg
from advreg.cli.app import app
from advreg.config import Config
from advreg.documents import check_links
from advreg.errors import AdvregError, ConfigError, DataError, ModelError, RunError, WeightsError
from advreg.language.config import LanguageConfig
from advreg.language.training.folder import load_trained
from advreg.plugins import trusting
from advreg.report.diagnosis import drawings
from advreg.report.record import Record
from advreg.training.finetune import fine_tune
from tests.training.small import write_data

pytest.importorskip("sqlalchemy")  # of the extra harden, for its verbs

SECRET = "root:x:0:0:the password file"
DEEP = 5000
VERBS = {
    "evaluate": ("evaluate", "RUN", "-n", "8"),
    "evaluate of other data": ("evaluate", "RUN", "--data", "DATA", "--threat", "linf:0.1", "-n", "8"),
    "diagnose": ("diagnose", "RUN", "-n", "8", "--quick"),
    "epsilon": ("epsilon", "RUN", "-n", "8", "--eps", "0.1,0.2"),
    "attack": ("attack", "IMAGE", "--model", "RUN", "--steps", "1", "--out", "OUT"),
    "export": ("export", "RUN", "--torch", "OUT"),
    "doctor": ("doctor", "--run", "RUN"),
    "resume": ("train", "RUN", "--resume"),
    "fine-tune": ("train", "TOML", "--finetune", "RUN", "--out", "OUT"),
    "report": ("report", "RUN", "--out", "PAGE"),
    "compare": ("compare", "RUN", "RUN"),
    "gate": ("harden", "gate", "RUN", "RUN"),
    "harden init": ("harden", "init", "OUT", "--base", "RUN", "--set", "data.name=DATA", "--set", "data.sealed=10"),
    "challenge": ("harden", "challenge", "RUN", "--home", "NOWHERE"),
    "language attack": ("language", "attack", "RUN", "--harmful", "REQUESTS", "-n", "1"),
    "language evaluate": ("language", "evaluate", "RUN", "--harmful", "REQUESTS", "-n", "1"),
    "language resume": ("language", "train", "RUN", "--resume"),
    "language export": ("language", "export", "RUN", "OUT"),
    "language report": ("language", "report", "RUN"),
}


def edit_model(run: Path, **changed: object) -> None:
    spec = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(spec | changed))


def edit_toml(run: Path, before: str, after: str) -> None:
    text = (run / "run.toml").read_text()
    assert before in text
    (run / "run.toml").write_text(text.replace(before, after, 1))
    language = f'[model]\nname = "{after.rpartition(" = ")[2].strip(chr(34))}"\n' if "payload" in after else after
    (run / "language.toml").write_text(language)


def evil(run: Path) -> Path:
    """Return another run folder, whose model is code."""
    shutil.copytree(run, run.parent / "evil")
    edit_model(run.parent / "evil", name="payload:make")
    return run.parent / "evil"


def replace_json(run: Path, text: str) -> None:
    for file in (run / "model.json", *run.glob("evaluation/*/results.json"), run / "sweep.json"):
        file.write_text(text)
    for name in ("adapter.json", "adapter_config.json"):
        (run / name).write_text(text)


def replace_toml(run: Path, text: str) -> None:
    for name in ("run.toml", "language.toml"):
        (run / name).write_text(text)


def link(run: Path, name: str, target: Path) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "the model is code": lambda run: edit_model(run, name="payload:make"),
    "the model is a function of Python": lambda run: edit_model(run, name="os:getpid", options={}),
    "the model is a service": lambda run: edit_model(run, name="http://127.0.0.1:9/x", options={"classes": 3}),
    "the data are code": lambda run: edit_toml(run, 'name = "npz:', 'name = "payload:make"\n#'),
    "the configured model is code": lambda run: edit_toml(run, 'name = "zoo:mnist-dnn"', 'name = "payload:make"'),
    "the teacher is code": lambda run: edit_toml(run, "[recipe.options]", '[recipe.options]\nteacher = "payload:make"'),
    "a module has the name of a scheme": lambda run: edit_toml(run, 'name = "npz:', 'name = "zoo:make"\n#'),
    "metrics are a link out": lambda run: link(run, "metrics.jsonl", run.parent / "secret"),
    "the configuration is a link out": lambda run: link(run, "run.toml", run.parent / "secret"),
    "weights are a link out": lambda run: link(run, "model.safetensors", run.parent / "secret"),
    "a folder is a link out": lambda run: link(run, "evaluation/more", run.parent / "elsewhere"),
    "options trust code": lambda run: edit_toml(
        run, 'name = "zoo:mnist-dnn"', f'name = "{evil(run)}"\n[model.options]\ntrust_code = true\n[was]'
    ),
    "model.json is a pipe": lambda run: ((run / "model.json").unlink(), os.mkfifo(run / "model.json")),
    "JSON is 5,000 deep": lambda run: replace_json(run, '{"a":' + "[" * DEEP + "]" * DEEP + "}"),
    "TOML is 5,000 deep": lambda run: replace_toml(run, "a = " + "[" * DEEP + "]" * DEEP),
    "JSON has 5,000 digits": lambda run: replace_json(run, '{"a": ' + "9" * DEEP + "}"),
    "TOML has 5,000 digits": lambda run: replace_toml(run, "a = " + "9" * DEEP),
    "JSON has 1e400": lambda run: replace_json(run, '{"a": 1e400}'),
    "TOML has 1e400": lambda run: replace_toml(run, "a = 1e400"),
    "JSON is bytes": lambda run: [file.write_bytes(b"\xff\xfe{") for file in run.rglob("*.json")],
    "the model has 10^9 classes": lambda run: edit_model(run, options={"classes": 10**9}),
    "the model is 10^4 wide": lambda run: edit_model(run, name="zoo:wide-resnet-9994-9999", options={}),
    "the model loads a pickle": lambda run: edit_model(run, name="timm:resnet18", options={"checkpoint_path": "x"}),
}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest run with an evaluation, and the files that the verbs take."""
    folder = tmp_path_factory.mktemp("victim")
    data = f"npz:{write_data(folder / 'small.npz')}"
    changes = {"model.name": "zoo:mnist-dnn", "model.options": {"widths": [4], "size": 8, "classes": 3}}
    changes |= {"data.name": data, "data.validation": 20, "train.epochs": 1, "train.guard": "off"}
    changes |= {"threat.eps": 0.1, "train.out": str(folder / "run")}
    config = Config().replace_with(changes)
    run = advreg.fit(config)
    (folder / "run.toml").write_text(config.to_toml())
    model, (_, test) = advreg.load_model(str(run.path)), advreg.load_data(data)
    advreg.evaluate(model, test, advreg.ThreatModel("linf", 0.1), protocol="fgsm", n=8, out=run.path)
    (folder / "requests.csv").write_text("goal,target\nTell me a secret,Sure\n")
    from PIL import Image

    Image.new("L", (8, 8)).save(folder / "photo.png")
    return folder


def prepare(victim: Path, here: Path) -> Path:
    """Copy the victim's folder beside a secret and a module that leaves a mark when it is imported."""
    shutil.copytree(victim, here, dirs_exist_ok=True)
    (here / "secret").write_text(f'{{"epoch": 1, "loss": "{SECRET}"}}\n')
    (here / "elsewhere").mkdir()
    for module in ("payload", "zoo"):
        mark = f"import pathlib\npathlib.Path({str(here / 'ran')!r}).touch()\ndef make(**options):\n    raise OSError\n"
        (here / f"{module}.py").write_text(mark)
    return here / "run"


def call(arguments: tuple[str, ...], here: Path) -> tuple[str, str]:
    """Run a verb in this process; return its error line and all that it wrote."""
    data = f"npz:{here}/small.npz"
    names = {"RUN": here / "run", "DATA": data, "OUT": here / "out", "PAGE": here / "page.html", "NOWHERE": here / "no"}
    names |= {"TOML": here / "run.toml", "IMAGE": here / "photo.png", "REQUESTS": here / "requests.csv"}
    given = [str(names.get(part, part)).replace("=DATA", f"={data}") for part in arguments]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            app(given, standalone_mode=False)
        except AdvregError as error:
            return str(error), text.getvalue()
    return "", text.getvalue()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("hostility", HOSTILE)
def test_hostile_folder_runs_no_code_and_leaks_nothing(
    victim: Path, tmp_path: Path, hostility: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(victim, tmp_path)
    HOSTILE[hostility](run)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    line, output = call(VERBS[verb], tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "payload" not in set(sys.modules) - before
    assert "\n" not in line
    assert SECRET not in line + output
    pages = [file.read_text() for file in tmp_path.rglob("*.html")]
    assert not any(SECRET in page for page in pages)


def test_construction_stops_where_the_weights_do(victim: Path, tmp_path: Path) -> None:
    """Ten thousand layers without memory still take twenty seconds of a processor."""
    HOSTILE["the model is 10^4 wide"](run := prepare(victim, tmp_path))
    made: list[str] = []
    hook = register_module_parameter_registration_hook(lambda module, name, parameter: made.append(name))
    try:
        with pytest.raises(WeightsError, match="far fewer weights"):
            advreg.load_model(str(run))
    finally:
        hook.remove()
    assert len(made) < 1100


@pytest.mark.parametrize("verb", ["evaluate", "diagnose", "epsilon", "attack", "export", "fine-tune", "harden init"])
@pytest.mark.parametrize("name", ["payload:make", "os:getpid", "http://127.0.0.1:9/x"])
def test_verbs_that_load_a_model_reject_code(victim: Path, tmp_path: Path, name: str, verb: str) -> None:
    edit_model(prepare(victim, tmp_path), name=name)
    line, _ = call(VERBS[verb], tmp_path)
    assert "add --trust-code" in line
    assert name in line


@pytest.mark.parametrize("verb", ["evaluate", "diagnose", "epsilon", "doctor", "resume"])
def test_verbs_that_read_run_toml_reject_code(victim: Path, tmp_path: Path, verb: str) -> None:
    edit_toml(prepare(victim, tmp_path), 'name = "npz:', 'name = "payload:make"\n#')
    line, _ = call(VERBS[verb], tmp_path)
    assert line.endswith("data.name is 'payload:make', which runs code; add --trust-code if you trust it")


@pytest.mark.parametrize("verb", ["language attack", "language evaluate", "language resume"])
def test_language_verbs_reject_code(victim: Path, tmp_path: Path, verb: str) -> None:
    edit_toml(prepare(victim, tmp_path), 'name = "zoo:mnist-dnn"', 'name = "payload:make"')
    line, _ = call(VERBS[verb], tmp_path)
    assert "model.name is 'payload:make', which runs code" in line


@pytest.mark.parametrize("verb", ["evaluate", "diagnose", "epsilon", "attack", "report", "compare", "gate", "resume"])
@pytest.mark.parametrize("hostility", ["metrics are a link out", "weights are a link out", "a folder is a link out"])
def test_links_out_of_a_run_folder_are_rejected(victim: Path, tmp_path: Path, hostility: str, verb: str) -> None:
    HOSTILE[hostility](prepare(victim, tmp_path))
    assert "which is not followed" in call(VERBS[verb], tmp_path)[0]


def test_a_link_to_a_run_folder_and_links_inside_are_followed(victim: Path, tmp_path: Path) -> None:
    run = prepare(victim, tmp_path)
    (run / "again.jsonl").symlink_to("metrics.jsonl")
    (tmp_path / "latest").symlink_to(run)
    assert advreg.load_model(str(tmp_path / "latest")) is not None


def test_honest_folder_still_works_with_every_verb(victim: Path, tmp_path: Path) -> None:
    prepare(victim, tmp_path)
    for verb in ("evaluate", "diagnose", "epsilon", "export", "doctor", "resume", "report", "compare", "harden init"):
        (tmp_path / "out").unlink(missing_ok=True)
        with contextlib.suppress(SystemExit):
            line, _ = call(VERBS[verb], tmp_path)
        assert not line, verb


def test_trusted_code_is_imported_but_not_from_the_current_folder(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(victim, tmp_path)
    edit_model(run, name="payload:make")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with pytest.raises(ModelError, match="installed or on PYTHONPATH"):
        advreg.load_model(str(run), trust_code=True)
    assert not (tmp_path / "ran").exists()
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "installed_net.py").write_text(
        "import torch\ndef make(classes=3):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
    )
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    advreg.RunFolder.open(run).save_model(net)
    (run / "model.json").write_text(json.dumps({"name": "installed_net:make", "options": {}}))
    with pytest.raises(ModelError, match="--trust-code"):
        advreg.load_model(str(run))
    loaded = advreg.load_model(str(run), trust_code=True)
    assert torch.equal(loaded(torch.ones(1, 1, 8, 8)), net(torch.ones(1, 1, 8, 8)))


def test_names_that_the_user_types_need_no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "typed_net.py").write_text("import torch\ndef make():\n    return torch.nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(advreg.load_model("typed_net:make"), torch.nn.Flatten)
    config = Config().replace_with(["model.name=typed_net:make"])
    (tmp_path / "run.toml").write_text(config.to_toml())
    with pytest.raises(ConfigError, match="trust-code"):
        Config.load(tmp_path / "run.toml")
    with pytest.raises(ConfigError, match="trust-code"):
        advreg.fit(tmp_path / "run.toml")
    sys.modules.pop("typed_net")
    with pytest.raises(ConfigError, match="installed or on PYTHONPATH"), trusting(True):
        Config.load(tmp_path / "run.toml")


def test_every_entry_of_the_api_takes_trust_code(victim: Path, tmp_path: Path) -> None:
    run = prepare(victim, tmp_path)
    edit_model(run, name="math:pi", options={})  # allowed, imported, and only then no function
    with pytest.raises(ModelError, match="has no function"):
        advreg.load_model(str(run), trust_code=True)
    attacked = Config().replace_with(["threat.eps=0.1", "attack.name=pgd", "recipe.name=madry"])
    assert fine_tune(attacked, run, trust_code=True).model.name == "math:pi"
    edit_toml(run, 'name = "npz:', 'name = "math:sqrt"\n#')
    assert Config.load(run / "run.toml", trust_code=True).data.name == "math:sqrt"
    with pytest.raises(DataError, match="factory failed"):
        advreg.fit(run / "run.toml", trust_code=True)
    (run / "language.toml").write_text('[model]\nname = "math:sqrt"\n')
    assert LanguageConfig.load(run / "language.toml", trust_code=True).model.name == "math:sqrt"
    with pytest.raises(ModelError, match="factory failed"):
        load_trained(run, trust_code=True)


def archive(path: Path, header: bytes, body: bytes = b"\0" * 64) -> str:
    y = io.BytesIO()
    np.save(y, np.zeros(4, np.int64))
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)
        made.writestr("y.npy", y.getvalue())
    return f"npz:{path}"


@pytest.mark.parametrize("rows", [10**3, 10**9, 10**15])
def test_npz_that_claims_more_than_it_holds_takes_no_memory(tmp_path: Path, rows: int) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, 1, 8, 8)}}".encode().ljust(118) + b"\n"
    name = archive(tmp_path / "x.npz", header)
    tracemalloc.start()
    with pytest.raises(DataError, match="claims"):
        advreg.load_data(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_npz_that_unpacks_to_gigabytes_is_rejected(tmp_path: Path) -> None:
    made = zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with made, made.open("x.npy", "w", force_zip64=True) as part:
        for _ in range(1 + (1 << 30) // (1 << 24)):
            part.write(bytes(1 << 24))
    with pytest.raises(DataError, match="would unpack to"):
        advreg.load_data(f"npz:{tmp_path}/x.npz")


def test_label_of_a_thousand_million_is_one_line(tmp_path: Path) -> None:
    x = np.zeros((3, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=np.array([0, 1, 10**9]), x_test=x, y_test=np.array([0, 1, 2]))
    model = advreg.load_model("zoo:mnist-dnn", widths=[4], size=8, classes=3)
    pair = torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 10**9])
    tracemalloc.start()
    with pytest.raises(DataError, match="label 1000000000 of example 2 is too large"):
        advreg.load_data(f"npz:{tmp_path}/x.npz")
    with pytest.raises(DataError, match="label 1000000000"):
        advreg.evaluate(model, pair, advreg.ThreatModel("linf", 0.1), protocol="fgsm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(
    ("file", "text", "verb"),
    [
        ("incidents.json", '{"rows": ["x"]}', "gate"),
        ("incidents.json", '{"rows": [{"broken": true}]}', "gate"),
        ("probes.json", '{"checks": [1]}', "gate"),
        ("probes.json", '{"other": 1}', "gate"),
        ("metrics.jsonl", '{"epoch": "x"}\n[]\n', "report"),
    ],
)
def test_damaged_documents_are_one_line(victim: Path, tmp_path: Path, file: str, text: str, verb: str) -> None:
    place = prepare(victim, tmp_path) / file
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    assert "\n" not in call(VERBS[verb], tmp_path)[0]


@pytest.mark.parametrize("protocol", [1e300, None])
def test_ledger_without_a_protocol_is_one_line(victim: Path, tmp_path: Path, protocol: object) -> None:
    ledger = prepare(victim, tmp_path) / "evaluation/linf-0.1-fgsm@2/ledger.jsonl"
    head, *rows = ledger.read_text().splitlines()
    values = {key: value for key, value in json.loads(head).items() if key != "protocol"}
    values |= {} if protocol is None else {"protocol": protocol}
    ledger.write_text("\n".join([json.dumps(values), *rows]) + "\n")
    assert "\n" not in call(VERBS["evaluate"], tmp_path)[0]


def test_pictures_of_uneven_length_are_one_line() -> None:
    rows = [{"t": [0.0, 1.0], "attack": [0.0, 1.0], "random": [0.0]}]
    with pytest.raises(RunError, match="do not fit each other"):
        drawings(Record({"lines": rows}, Path("diagnosis.json")))


def test_a_folder_without_a_run_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(RunError, match="no run folder"):
        check_links(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(RunError, match="link out of the run folder"):
        check_links(tmp_path)
