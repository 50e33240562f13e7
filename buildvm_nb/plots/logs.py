"""Two logs side by side: what differs between a run that passes and one that does not."""

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from buildvm_nb.errors import UsageError
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.plaintext import clean, steady
from buildvm_nb.plots.style import COLOURS, INK, Drawing, drawable

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["log_diff"]

_Row = tuple[str, str, str]
"""What becomes of a line (``same``, ``changed``, ``removed``, ``added``, ``gap``), left, right."""
_MOST_LINES = 3000
"""Of each log, its last ones: that is where a run ends, and comparing takes their product."""
_TAIL = 512 * 1024
_WIDTH = 74
_MARKS = {"same": " ", "changed": "~", "removed": "-", "added": "+", "gap": " "}
_COLOURS = {"changed": COLOURS["timeout"], "removed": COLOURS["passed"], "added": COLOURS["failed"]}


def log_diff(  # noqa: PLR0913 - all but both logs have defaults
    left: Outcome | str,
    right: Outcome | str,
    *,
    catalog: "Catalog | None" = None,
    names: tuple[str, str] | None = None,
    context: int = 2,
    rows: int = 60,
    numbers: bool = False,
) -> Drawing:
    """Show two logs side by side where they differ.

    Parameters
    ----------
    left, right : Outcome or str
        Of a run that passes and of one that does not; or the logs' texts. The last 512 KiB of each
        are read.
    catalog : Catalog, optional
        Has the logs of outcomes.
    names : tuple of str, optional
        What stands above both; by default each outcome's verdict and machine.
    context : int
        Lines shown around each difference.
    rows : int
        Lines shown at most, the last ones; how many are left out is said.
    numbers : bool
        Whether lines differ that differ in numbers only. They do between any two runs: times,
        addresses, process numbers.

    Returns
    -------
    Drawing
        Two columns: ``-`` and green, only on the left; ``+`` and vermilion, only on the right;
        ``~`` and orange, changed.

    Raises
    ------
    UsageError
        If an outcome is given without a catalog.
    CatalogError
        If a log cannot be read.
    """
    logs = [_lines(one, catalog) for one in (left, right)]
    found = list(_compare(*logs, key=str if numbers else _without_numbers, context=context))
    left_out = max(len(found) - rows, 0)
    shown = found[left_out:]
    figure = Drawing(figsize=(14, 1.0 + 0.19 * max(len(shown), 1)))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(shown) + 0.5, -3)
    titles = names or (_name(left, "left"), _name(right, "right"))
    figure.set_label(" | ".join(titles))
    for place, title in zip((0.0, 0.5), titles, strict=True):
        axes.text(place, -2, drawable(title), weight="bold", parse_math=False)
    note = "no line differs" if not found else f"{left_out} lines above are left out"
    if left_out or not found:
        axes.text(0.0, -1, note, style="italic")
    for height, (kind, *texts) in enumerate(shown):
        for place, text in zip((0.0, 0.5), texts, strict=True):
            _write(axes.text, place, height, kind, text)
    return figure


def _write(draw: Callable[..., object], place: float, height: int, kind: str, text: str) -> None:
    if not text:
        return
    cut = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
    colour = _COLOURS.get(kind)
    draw(
        place,
        height,
        f"{_MARKS[kind]} {drawable(cut)}",
        family="monospace",
        fontsize=8,
        va="center",
        color=INK,
        alpha=1.0 if colour else 0.6,
        parse_math=False,
        bbox={"facecolor": colour, "alpha": 0.3, "edgecolor": "none", "pad": 1} if colour else None,
    )


def _lines(log: Outcome | str, catalog: "Catalog | None") -> list[str]:
    if isinstance(log, str):
        text = log[-_TAIL:]
    elif not log.log_digest:
        text = log.evidence or log.reason
    elif catalog is None:
        raise UsageError(
            f"the log of outcome {log.id} is in a catalog", hint="log_diff(a, b, catalog=…)"
        )
    else:
        text = _tail(catalog.log_pieces(log.log_digest)).decode(errors="replace")
    return clean(text).rstrip().split("\n")[-_MOST_LINES:]


def _tail(pieces: Iterable[bytes]) -> bytes:
    end = b""
    for piece in pieces:
        end = (end + piece)[-_TAIL:]
    return end


def _compare(
    left: list[str], right: list[str], *, key: Callable[[str], str], context: int
) -> Iterator[_Row]:
    """Iterate over the rows near differences."""
    matcher = SequenceMatcher(None, [*map(key, left)], [*map(key, right)], autojunk=False)
    groups = list(matcher.get_grouped_opcodes(context))
    for number, group in enumerate(groups):
        if number:
            yield "gap", "…", "…"
        for tag, first, last, begin, end in group:
            kind = {"equal": "same", "delete": "removed", "insert": "added"}.get(tag, "changed")
            texts = left[first:last], right[begin:end]
            for at in range(max(map(len, texts))):
                one, other = (side[at] if at < len(side) else "" for side in texts)
                # of a block that was replaced by a shorter one, the rest was removed
                alone = "removed" if not other else "added" if not one else kind
                yield (alone if kind == "changed" else kind), one, other


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "0", steady(line))


def _name(log: Outcome | str, default: str) -> str:
    if isinstance(log, str):
        return default
    machine = log.machine
    return f"{log.verdict.value}: {machine.date:%Y-%m-%d %H:%M:%S}, {machine.cpu}, {machine.kernel}"
