"""Names that a package passes on: imported when they are first used, and listed once."""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

__all__ = ["passed_on"]


def passed_on(
    package: str, file: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Pass on the names that a package imports for type checkers, as ``name as name``.

    Returns: the package's ``__getattr__``, ``__dir__`` and ``__all__``.
    """
    homes = {
        alias.name: node.module or ""
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    names = sorted(homes)

    def find(name: str) -> object:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message)

    return find, lambda: names, names
