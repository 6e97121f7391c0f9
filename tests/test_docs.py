"""The documents tell the truth: commands exist, links resolve, tables match the code."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import whatchanged
from whatchanged.cli import app
from whatchanged.console import EXIT_INTERNAL, EXIT_INTERRUPTED
from whatchanged.errors import EXIT_CODES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELLS = {"sh", "bash", "console", "shell"}
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and body of each fenced block."""
    yield from FENCE.findall(text)


def commands(text: str) -> Iterator[list[str]]:
    """Words of each shell command: in `console` blocks only lines after a prompt are commands."""
    for language, body in blocks(text):
        if language not in SHELLS:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            prompt = line.startswith("$ ")
            if language == "console" and not prompt:
                continue
            for part in re.split(r"\s(?:&&|\||>|;)\s", line.removeprefix("$ ")):
                if words := shlex.split(part, comments=True):
                    yield words


def problem(words: list[str]) -> str:
    """What is wrong with one command as far as this repository can tell; empty if nothing."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = words[0].rpartition("/")[2]
    if program == "whatchanged":
        return unknown_to_the_command(words[1:])
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return next((f"no target {w}" for w in words[1:] if "=" not in w and w not in targets), "")
    if program == "python" and words[1:2] == ["-m"] and words[2] == "whatchanged":
        return unknown_to_the_command(words[3:])
    if program == "python" and words[1].endswith(".py"):
        return "" if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    if program == "pip" and (extras := re.search(r"\[([\w,-]+)\]", " ".join(words))):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        unknown = set(extras[1].split(",")) - set(known["optional-dependencies"])
        return f"no extra {unknown}" if unknown else ""
    return ""


def unknown_to_the_command(words: list[str]) -> str:
    command: Any = typer.main.get_command(app)
    for word in words:
        if word.startswith("-"):
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            if word.partition("=")[0] not in {*options, "--help", "-h"}:
                return f"{command.name} has no option {word}"
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return f"{command.name} has no command {word}"
            command = command.commands[word]
        elif word.endswith(".yaml") and not (ROOT / word).is_file():
            return f"no file {word}"
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(path: Path) -> None:
    wrong = {
        " ".join(words): complaint
        for words in commands(path.read_text(encoding="utf-8"))
        if (complaint := problem(words))
    }
    assert wrong == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_examples_use_names_that_exist(path: Path) -> None:
    for language, body in blocks(path.read_text(encoding="utf-8")):
        if language not in {"python", "pycon", "py"}:
            continue
        if ">>>" in body:
            body = "\n".join(re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", body, re.MULTILINE))
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "wc":
                assert node.attr in whatchanged.__all__, f"wc.{node.attr}"


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub and mkdocs make them from simple titles."""
    plain = FENCE.sub("", text)
    titles = re.findall(r"^#+ (.+)$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        found = place.exists() and place.is_relative_to(ROOT)
        if not found or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_the_table_of_exit_codes_is_the_codes() -> None:
    text = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)?", text, re.MULTILINE)
    documented = {int(code): name for code, name in rows}
    expected = {code: cls.__name__ for cls, code in EXIT_CODES.items()}
    assert documented == {0: "", **expected, EXIT_INTERNAL: "", EXIT_INTERRUPTED: ""}


def test_the_keys_of_json_are_documented() -> None:
    text = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    section = text[text.index("## JSON") : text.index("## Exit codes")]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == [
        "before",
        "after",
        "caption",
        "changed",
        "changed_probability",
        "captions",
        "model",
        "warnings",
    ]


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    command: Any = typer.main.get_command(app)
    for name, sub in command.commands.items():
        assert f"whatchanged {name}" in text
        for option in (o for p in sub.params for o in p.opts if o.startswith("--")):
            assert f"`{option}" in text, f"{name} {option}"


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {whatchanged.__version__}" in text


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("whatchanged describe a.tif b.tif --json", False),
        ("whatchanged describe a.tif b.tif --jsn", True),
        ("whatchanged weights fetch x", False),
        ("whatchanged weights get x", True),
        (".venv/bin/whatchanged doctor", False),
        ("make demo", False),
        ("make coffee", True),
        ("python examples/none.py", True),
        ("pip install -c constraints.txt -e '.[metrics-java]'", False),
        ("pip install -e '.[everything]'", True),
        ("whatchanged train configs/none.yaml epochs=5", True),
    ],
)
def test_the_check_sees(line: str, wrong: bool) -> None:
    (words,) = commands(f"```sh\n{line}\n```\n")
    assert bool(problem(words)) is wrong


def test_output_in_console_blocks_is_no_command() -> None:
    text = "```console\n$ whatchanged doctor | head\nok  whatchanged 0.1.0\n```\n"
    assert list(commands(text)) == [["whatchanged", "doctor"], ["head"]]
