"""A verdict in words, with a sign and a colour: never by the colour alone."""

from html import escape

from buildvm_nb.model.outcome import Outcome, Verdict

__all__ = ["verdict_html"]

_LOOKS = {  # sign, background; black on each has a contrast of 4.5 to 1 at least
    Verdict.PASSED: ("\N{CHECK MARK}", "#8fd8b8"),
    Verdict.FAILED: ("\N{BALLOT X}", "#f4a582"),
    Verdict.CRASHED: ("\N{HIGH VOLTAGE SIGN}", "#e3b5d0"),
    Verdict.TIMEOUT: ("\N{HOURGLASS}", "#f3cf7f"),
    Verdict.UNAVAILABLE: ("\N{EMPTY SET}", "#a9d6f2"),
    Verdict.ERROR: ("!", "#cccccc"),
}

_PRE = "color:inherit;background:none;white-space:pre-wrap;margin:4px 0 0"  # not the theme's


def verdict_html(outcome: Outcome) -> str:
    """Tell how a run ended, and why.

    Parameters
    ----------
    outcome : Outcome
        Any.

    Returns
    -------
    str
        HTML.
    """
    sign, colour = _LOOKS[outcome.verdict]
    why = f": {escape(outcome.reason)}" if outcome.reason else ""
    seen = f'<pre style="{_PRE}">{escape(outcome.evidence)}</pre>' if outcome.evidence else ""
    return (
        f'<div role="status" style="background:{colour};color:#000;padding:6px 10px;'
        f'border-radius:4px;overflow-wrap:anywhere">{sign} <b>{outcome.verdict.value}</b>{why}'
        f"{seen}</div>"
    )
