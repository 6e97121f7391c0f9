"""The layers: imports point down, and what must start fast never loads the heavy libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "whatchanged"

# What each part may import of the others; a part may always import itself.
L0 = {"errors", "files"}
L1 = L0 | {"config", "console", "answers"}
L2 = L1 | {"geo", "data", "models", "metrics"}
L3 = L2 | {"train", "predict", "describing", "asking", "score", "evaluate", "reproduce"}
L3 |= {"export"}
L4 = L3 | {"batch"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "config": L0,
    "answers": L0,
    "console": L0,
    "geo": L0 | {"console"},
    "data": L1 | {"geo"},
    "models": L1,
    "metrics": L0,
    "train": L2,
    "predict": L2,
    "describing": L2 | {"predict"},
    "asking": L2 | {"predict", "describing"},
    "score": L2,
    "evaluate": L2 | {"train", "predict", "score"},
    "export": L2 | {"predict"},
    "reproduce": L2 | {"train", "predict", "describing", "score", "evaluate"},
    "batch": L3,
    "doctor": L4,
    "cli": L4 | {"doctor"},
    "web": L4,
    "__init__": L4,
    "__main__": {"cli"},
}
# `whatchanged --help` and `whatchanged doctor` load these before they know what is wanted.
WITHOUT_TORCH = L1 | {"geo", "metrics", "score", "doctor", "cli", "__init__"}
HEAVY = {"torch", "transformers", "accelerate"}


# Modules that together are one part of the table.
TOGETHER = {
    "prepare": "predict",
    "explain": "describing",
    "products": "describing",
    "ask_answer": "asking",
    "ask_pair": "asking",
    "ask_products": "asking",
    "ask_text": "asking",
    "ask_windows": "asking",
    "cli_ask": "cli",
    "cli_options": "cli",
    "score_table": "score",
    "evaluate_masks": "evaluate",
    "evaluate_masks_report": "evaluate",
    "evaluate_report": "evaluate",
    "cli_data": "cli",
    "export_dense": "export",
    "export_graphs": "export",
    "export_parity": "export",
    "export_readme": "export",
    "cli_export": "cli",
    "cli_prepare": "cli",
    "cli_reproduce": "cli",
}


def part_of(path: Path) -> str:
    """Name of the part (module or subpackage right below whatchanged) a file belongs to."""
    name = path.relative_to(SOURCE).with_suffix("").parts[0]
    return TOGETHER.get(name, name)


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Dotted name and line of every import in ``tree``, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *filter(None, [node.module])))
            yield from ((f"{stem}.{alias.name}", node.lineno) for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported: no function bodies, no type checking."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


def upward_imports(path: Path, text: str) -> list[str]:
    """Complaints about the imports of one file that do not point down."""
    part = part_of(path)
    package = ("whatchanged", *path.relative_to(SOURCE).parent.parts)
    complaints = []
    for name, line in imported_modules(ast.parse(text), package):
        parts = name.split(".")
        if parts[0] != "whatchanged" or len(parts) < 2:
            continue
        target = TOGETHER.get(parts[1], parts[1])
        if target == part or not _is_part(target):
            continue  # itself, or a name of the package such as __version__
        if target not in ALLOWED[part]:
            complaints.append(f"{path.relative_to(ROOT)}:{line}: {part} imports {target}")
    return complaints


def _is_part(name: str) -> bool:
    return name in ALLOWED or (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    assert part_of(path) in ALLOWED, f"{part_of(path)} has no layer: give it one in ALLOWED"
    assert upward_imports(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if part_of(p) in WITHOUT_TORCH],
    ids=lambda p: str(p.relative_to(SOURCE)),
)
def test_light_parts_do_not_load_torch(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if part_of(path) not in {"cli", "__init__"}:  # these two may name it inside functions
        loaded = imported_modules(tree, ())
    else:
        loaded = imported_modules(at_import_time(tree), ())
    heavy = [f"line {line}: {name}" for name, line in loaded if name.split(".")[0] in HEAVY]
    assert heavy == []


def test_every_part_is_allowed_only_what_lies_below() -> None:
    """The table itself has no cycle: following it always ends."""

    def depth(part: str, above: tuple[str, ...] = ()) -> int:
        assert part not in above, f"cycle: {' -> '.join((*above, part))}"
        return 1 + max((depth(p, (*above, part)) for p in ALLOWED[part]), default=0)

    assert all(depth(part) >= 1 for part in ALLOWED)


@pytest.mark.parametrize(
    ("file", "line", "complains"),
    [
        ("models/hisem/model.py", "from whatchanged.data.tokens import Vocabulary", True),
        ("models/hisem/model.py", "from ...data import tokens", True),
        ("models/hisem/model.py", "from .bdam import Bdam", False),
        ("models/hisem/model.py", "import whatchanged.config", False),
        ("geo/scene.py", "def f():\n    from whatchanged.train import run", True),
        ("geo/scene.py", "from whatchanged import predict", True),
        ("geo/scene.py", "from whatchanged import __version__", False),
        ("errors.py", "import whatchanged.config as c", True),
        ("cli.py", "from whatchanged.predict import describe", False),
    ],
)
def test_the_check_sees(file: str, line: str, complains: bool) -> None:
    assert bool(upward_imports(SOURCE / file, line)) is complains
