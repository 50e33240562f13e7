"""Help texts: every example in them parses, and what they list is what the model knows."""

import re
import shlex
from functools import cache
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from buildvm_nb.cli import main
from buildvm_nb.cli.app import app, commands
from buildvm_nb.cli.build import EnvironmentOption, ShareOptions
from buildvm_nb.cli.command import GlobalOptions, Session, command, new_group
from buildvm_nb.cli.host import LEVELS
from buildvm_nb.cli.options import MachineOptions, SourceOptions, make_case
from buildvm_nb.model.machine import CPU_MODELS, Accelerator, ImageSpec, Network

runner = CliRunner()
LINES = [
    ([*filter(None, [group]), each.name], each)
    for group, (_, members) in commands().items()
    for each in members
]
EXAMPLES = [(path, line) for path, each in LINES for line in each.examples]


@cache
def help_of(*path):
    result = runner.invoke(app, [*path, "--help"], prog_name="buildvm")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("path", "each"), LINES, ids=lambda one: " ".join(one) if isinstance(one, list) else ""
)
def test_each_command_has_examples_and_a_first_line_that_fits_the_overview(path, each):
    text = help_of(*path)
    assert "\n  Examples:\n    buildvm " in text
    overview = help_of(*path[:-1])
    first = each.call.__doc__.splitlines()[0]
    assert re.search(rf"(?m)^  {path[-1]} +{re.escape(first)}$", overview)
    assert re.fullmatch(r"[A-Z].*\.", first)
    assert "..." not in overview.partition("Commands:")[2]


def test_the_examples_of_a_help_text_are_not_broken_into_lines():
    for path, line in EXAMPLES:
        assert f"\n    {line}\n" in help_of(*path)


@pytest.mark.parametrize(("path", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_each_example_has_only_known_options(path, line):
    words = shlex.split(line)
    assert words[: len(path) + 1] == ["buildvm", *path]
    # options are all parsed before --help ends the program
    assert main([*path, "--help", *words[len(path) + 1 :]]) == 0


def parsed(words, *, takes_words):
    """Parse the words of run, shell or build with the real groups of options."""
    seen = {}

    @command("any", examples=("buildvm",), takes_words=takes_words)
    def take(
        session: Session,
        machine: MachineOptions,
        source: SourceOptions,
        sharing: ShareOptions,
        words: Annotated[list[str] | None, typer.Argument()] = None,
        environment: EnvironmentOption = None,
    ) -> None:
        """Take everything."""
        seen.update(machine=machine, source=source, words=words or [], session=session)

    group = new_group("test")
    take.add_to(group)
    result = runner.invoke(group, words)
    assert result.exit_code == 0, (result.output, result.exception)
    return seen


@pytest.mark.parametrize(
    "line",
    [line for path, line in EXAMPLES if path[0] in {"run", "shell", "build"} and len(path) == 1],
)
def test_each_example_of_a_machine_command_describes_a_machine_and_a_case(line):
    words = shlex.split(line)
    seen = parsed(words[2:], takes_words=words[1] == "run")
    machine, source = seen["machine"], seen["source"]
    assert machine.spec().date
    machine.timeout_s()
    if words[1] == "run":
        assert seen["words"]
    if source.given():
        assert make_case(source, seen["words"], machine.overrides().get("image", ImageSpec()))


def test_global_options_may_stand_before_and_after_the_command(tmp_path):
    before = runner.invoke(app, ["--json", "--cache", str(tmp_path / "a"), "image", "list"])
    after = runner.invoke(app, ["image", "list", "--json", "--cache", str(tmp_path / "b")])
    assert before.stdout == after.stdout == "[]\n"
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").is_dir()


def test_the_later_of_two_global_options_holds(tmp_path):
    words = ["--cache", str(tmp_path / "a"), "image", "list", "--cache", str(tmp_path / "b")]
    assert runner.invoke(app, words).exit_code == 0
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").is_dir()


def test_every_command_takes_the_global_options():
    names = [f"--{field}" for field in GlobalOptions.__dataclass_fields__]
    for path, _ in LINES:
        text = help_of(*path)
        assert all(re.search(rf"(?m)^  .*{name}\b", text) for name in names)


def test_help_lists_the_accelerators_and_networks_that_there_are():
    text = help_of("run")
    assert f"--accelerator {'|'.join(Accelerator)} " in text
    assert f"--network {'|'.join(Network)} " in text


def test_every_cpu_model_has_one_level():
    names = [name for names in LEVELS.values() for name in names.split()]
    assert sorted(names) == sorted(model.name for model in CPU_MODELS)
