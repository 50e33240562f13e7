"""Names that a package passes on: imported when they are first used, and listed once."""

from collections.abc import Callable
from functools import cache
from importlib import import_module

__all__ = ["passed_on"]


def passed_on(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Pass on the names that a package imports for type checkers, as ``name as name``.

    Returns: the package's ``__getattr__``, which knows ``__all__`` as well, and its ``__dir__``.
    The package's file is read when a name is first asked for: a command line that asks for none
    has come to its end by then.
    """

    @cache
    def homes() -> dict[str, str]:
        import ast  # noqa: PLC0415 - 2 ms of each command
        from pathlib import Path  # noqa: PLC0415

        return {
            alias.name: node.module or ""
            for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname == alias.name
        }

    def find(name: str) -> object:
        if name == "__all__":
            return sorted(homes())
        # what Python itself asks every package for, as `__path__`, is none of these names
        if not name.startswith("__") and name in homes():
            return getattr(import_module(homes()[name]), name)
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message)

    return find, lambda: sorted(homes())
