"""What the code imports is declared, and what is declared is used, pinned and explained."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Import name -> distribution, where they differ.
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml"}
EVERYTHING: list[str] = [
    *PROJECT["dependencies"],
    *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
]


def imported(folder: Path) -> set[str]:
    """Distributions whose modules are imported anywhere below ``folder``."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    tops = {name.split(".")[0] for name in names}
    foreign = tops - set(sys.stdlib_module_names) - {"whatchanged", "__future__"}
    return {canonicalize_name(DISTRIBUTION.get(name, name)) for name in foreign}


def declared(texts: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in texts}


def test_every_import_of_the_package_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    optional = declared([*extras["metrics-java"], *extras["tensorboard"], *extras["export"]])
    undeclared = imported(ROOT / "src") - declared(PROJECT["dependencies"]) - optional
    assert undeclared == set()


def test_every_dependency_is_used() -> None:
    assert declared(PROJECT["dependencies"]) - imported(ROOT / "src") == set()


def test_every_requirement_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    lines = re.findall(r'^  "(.+?)",(.*)$', section, re.MULTILINE)
    assert [name for name, _ in lines] == EVERYTHING
    assert [name for name, rest in lines if not re.match(r" # \w+ \w+", rest)] == []


def test_constraints_pin_everything_once_and_from_the_index() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), pins
    names = [canonicalize_name(pin.partition("==")[0]) for pin in pins]
    assert len(names) == len(set(names))
    assert declared(EVERYTHING) <= set(names)


def test_the_tested_set_satisfies_the_lower_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, EVERYTHING):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
