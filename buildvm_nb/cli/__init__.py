"""The command line: ``buildvm``. It parses, asks `buildvm_nb.study` and prints; no more."""

from buildvm_nb.cli.entry import main

__all__ = ["main"]
