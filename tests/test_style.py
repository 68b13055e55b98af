"""The style of the source as laws: one meaning a name, words of the field, small files and functions.

The limits and the exceptions lie in ``style.toml`` beside this file. A limit may be lowered, never raised.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from advreg.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "advreg"
STYLE = tomllib.loads((ROOT / "tests" / "style.toml").read_text())
FILES = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in FILES.items()}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function and method with the name of its file."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield name, node


@functools.cache
def prose(text: str) -> str:
    """Return the comments and strings of a file: docstrings, error lines, help texts."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING))


def lines_of(node: ast.FunctionDef) -> int:
    """Return the lines of a function's body without its docstring."""
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1


def arguments_of(node: ast.FunctionDef) -> list[str]:
    """Return the names of a function's arguments, the instance and the class aside."""
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [each.arg for each in arguments if each.arg not in ("self", "cls")]


def is_command(node: ast.FunctionDef) -> bool:
    """Return whether a function is a verb of the command line."""
    return any(re.search(r"\.command\(", ast.unparse(each)) for each in node.decorator_list)


def public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the public functions and methods with the name of their file; commands document each option by its help."""
    for name, tree in TREES.items():
        owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
        for node in (node for owner in owners for node in owner.body):
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and not is_command(node):
                yield name, node


def sections(node: ast.FunctionDef) -> dict[str, str]:
    """Return the sections of a docstring by heading."""
    headings = r"^(Args|Returns|Yields|Raises|Example|Reference):"
    parts = re.split(headings, ast.get_docstring(node) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_class_names_are_defined_once() -> None:
    counts = Counter(node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert sorted(name for name, count in counts.items() if count > 1) == STYLE["classes_defined_twice"]


def test_functions_are_verbs_or_nouns_not_participles() -> None:
    found = {
        f"{name}:{node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and re.fullmatch(r"_?[a-z]+ed", node.name)
    }
    allowed = set(STYLE["participles"]["allowed"])
    names = {each.partition(":")[2] for each in found}
    assert names <= allowed, f"rename to a verb or to the noun returned: {sorted(names - allowed)}"


@pytest.mark.parametrize("word", sorted(STYLE["words"]))
def test_words_to_avoid_stay_rare(word: str) -> None:
    rule: dict[str, Any] = STYLE["words"][word]
    pattern = re.compile(rf"\b(?:{rule['pattern']})\b", re.IGNORECASE)
    rooms = tuple(rule.get("technical", ()))
    counts = {
        name: len(pattern.findall(prose(text))) for name, text in FILES.items() if not name.startswith(rooms or ("/",))
    }
    most = sorted(((count, name) for name, count in counts.items() if count), reverse=True)[:8]
    assert sum(counts.values()) <= rule["at_most"], f"write {rule['instead']}; most in {most}"


def test_files_are_short() -> None:
    too_long = {name: text.count("\n") for name, text in FILES.items() if text.count("\n") > STYLE["lines_a_file"]}
    assert not too_long


def test_functions_are_short() -> None:
    lengths = {f"{name}:{node.name}": lines_of(node) for name, node in functions()}
    assert not {name: length for name, length in lengths.items() if length > STYLE["lines_a_function"]}
    assert sorted(lengths.values())[len(lengths) // 2] <= 10


def test_tuple_assignments_have_two_targets_at_most() -> None:
    packed = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) > 2
    ]
    assert len(packed) <= STYLE["packed_assignments"], packed


def test_functions_take_six_positional_arguments_at_most() -> None:
    wide = [
        f"{name}:{node.name}"
        for name, node in functions()
        if not is_command(node)
        and len(node.args.posonlyargs + node.args.args) - (node.args.args[:1] != [] and node.args.args[0].arg == "self")
        > 6
    ]
    assert len(wide) <= STYLE["wide_functions"], wide


def test_docstrings_have_each_section_once() -> None:
    nodes = [
        node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    headings = {node: re.findall(r"^(\w+):$", ast.get_docstring(node) or "", flags=re.MULTILINE) for node in nodes}
    assert len(headings) > 1000
    assert [node.name for node, found in headings.items() if len(found) != len(set(found))] == []


def test_docstrings_describe_every_argument_of_four_or_more() -> None:
    missing = {}
    for name, node in public_functions():
        entries = re.findall(r"^ +([\w*, ]+):", sections(node).get("Args", ""), flags=re.MULTILINE)
        absent = set(arguments_of(node)) - set(re.findall(r"\w+", " ".join(entries)))
        if absent and len(arguments_of(node)) >= 4:
            missing[f"{name}:{node.name}"] = sorted(absent)
    assert not missing


def test_every_option_of_the_command_line_has_a_help_text() -> None:
    def parameters(command: Any) -> list[Any]:
        return [
            *command.params,
            *(each for verb in getattr(command, "commands", {}).values() for each in parameters(verb)),
        ]

    found = parameters(typer.main.get_command(app))
    assert len(found) > 100
    assert [each.name for each in found if not each.help] == []


def test_docstrings_describe_results_of_four_or_more_arguments() -> None:
    missing = [
        f"{name}:{node.name}"
        for name, node in public_functions()
        if len(arguments_of(node)) >= 4
        and ast.unparse(node.returns or ast.Constant(None)) not in ("None", "NoReturn", "Never")
        and not sections(node).keys() & {"Returns", "Yields"}
    ]
    assert not missing


def test_functions_that_raise_name_the_errors() -> None:
    missing = [
        f"{name}:{node.name}"
        for name, node in public_functions()
        if any(isinstance(each, ast.Raise) and each.exc for each in ast.walk(node)) and "Raises" not in sections(node)
    ]
    assert not missing


def test_boolean_functions_return_whether() -> None:
    missing = [
        f"{name}:{node.name}"
        for name, node in public_functions()
        if ast.unparse(node.returns or ast.Constant(None)) == "bool"
        and not (ast.get_docstring(node) or "").startswith("Return whether")
    ]
    assert not missing
