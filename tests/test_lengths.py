"""Files and functions stay short enough to be read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "whatchanged"
FILE_LINES = 450
FUNCTION_LINES = 100


def long_functions(text: str, limit: int) -> list[tuple[str, int]]:
    """Name and length of each function in ``text`` with more than ``limit`` lines."""
    lengths = [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(name, length) for name, length in lengths if length > limit]


def test_no_file_is_too_long() -> None:
    offenders = {
        str(path.relative_to(SOURCE)): lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES
    }
    assert not offenders, f"above {FILE_LINES} lines: {offenders}"


def test_no_function_is_too_long() -> None:
    offenders = {
        f"{path.relative_to(SOURCE)}:{name}": length
        for path in SOURCE.rglob("*.py")
        for name, length in long_functions(path.read_text(encoding="utf-8"), FUNCTION_LINES)
    }
    assert not offenders, f"above {FUNCTION_LINES} lines: {offenders}"


def test_the_check_sees_nested_and_async_functions() -> None:
    body = "\n".join("        x = 1" for _ in range(5))
    text = f"class C:\n    async def f(self):\n{body}\n    def g(self): pass\n"
    assert long_functions(text, 5) == [("f", 6)]
    assert long_functions(text, 6) == []
