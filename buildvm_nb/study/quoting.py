"""Which line of the logs of failing runs shows what a claim says of them."""

from collections.abc import Iterable
from itertools import chain

from buildvm_nb.model.outcome import Outcome
from buildvm_nb.model.plaintext import says
from buildvm_nb.study.laboratory import Laboratory

__all__ = ["claimed_line", "quote_line"]


def claimed_line(lab: Laboratory, text: str, line: str, failed: Iterable[Outcome]) -> str:
    """Choose the line that shows why a case fails.

    A log may show several, and which one comes last may be a matter of chance.

    Parameters
    ----------
    lab : Laboratory
        Has the logs.
    text : str
        What a log is claimed to say; empty where nothing is claimed.
    line : str
        What is shown where no log says that.
    failed : iterable of Outcome
        Of the case's failing runs.

    Returns
    -------
    str
        The one that the claim quotes, where there is such a line.
    """
    if not text or quote_line(text, [line]):
        return line
    logs = (lab.log(outcome) for outcome in failed)
    evidence = (outcome.evidence for outcome in failed)
    return quote_line(text, chain(evidence, logs)) or line


def quote_line(text: str, logs: Iterable[str]) -> str:
    """Find a text in logs.

    Parameters
    ----------
    text : str
        What a log is claimed to say; how its words are spaced does not matter, nor do durations,
        addresses and the like.
    logs : iterable of str
        In the order in which they are looked through.

    Returns
    -------
    str
        The first line that says it, or the text itself where only several lines together do;
        empty where no log does.
    """
    for log in logs:
        if found := next((line for line in log.splitlines() if says(line, text)), ""):
            return found.strip()
        if says(log, text):
            return text
    return ""
