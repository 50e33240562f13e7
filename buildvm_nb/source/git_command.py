"""Running git so that neither the repository nor the user's settings have a say.

Git can be made to run programs by a repository's own configuration: hooks, filters, monitors,
transports, lazy fetches. Here it only reads objects and references and speaks known protocols,
with the user's and the system's configuration left out and no question ever asked.

References
----------
git(1), environment variables; git-config(1), ``safe.directory``, ``protocol.allow``,
``uploadpack.*``, ``gc.auto``.
"""

import os
from pathlib import Path

from buildvm_nb.errors import HostError
from buildvm_nb.host.tools import find_tool, run_process

__all__ = ["NO_PROTOCOL", "REMOTE_PROTOCOLS", "GitFailed", "git", "git_environment"]

REMOTE_PROTOCOLS = "http:https:ssh:git"
"""Protocols to fetch by; ``file`` and ``ext`` are not among them."""

NO_PROTOCOL = "none"
"""For reading only: a partial clone then cannot fetch what it lacks, which would change it."""

_SETTINGS = {
    "safe.directory": "*",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "true",
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "fetch.fsckObjects": "false",
    "advice.objectNameWarning": "false",
}
_KEPT = {"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_PROXY_COMMAND"}
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30"


class GitFailed(HostError):
    """Git exited non-zero; for the caller to turn into what it means, where it can tell.

    Parameters
    ----------
    message : str
        What was run.
    said : str
        What git printed on standard error.
    hint : str
        The next step for the user.
    """

    def __init__(self, message: str, *, said: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.said = said


def git_environment(protocols: str) -> dict[str, str]:
    """Return all variables that git shall see.

    Parameters
    ----------
    protocols : str
        What git may fetch by, separated by ``:``.

    Returns
    -------
    dict of str to str
        This process's own without git's, and ours.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in _KEPT
    }
    settings = {"GIT_CONFIG_COUNT": str(len(_SETTINGS))}
    for number, (key, value) in enumerate(_SETTINGS.items()):
        settings[f"GIT_CONFIG_KEY_{number}"] = key
        settings[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "GIT_SSH_COMMAND": _SSH,
        **kept,
        **settings,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_PAGER": "cat",
        "LC_ALL": "C.UTF-8",
    }


def git(
    *arguments: str, git_dir: Path | None = None, protocols: str = NO_PROTOCOL, ceiling: str = "/"
) -> bytes:
    """Run git to its end.

    Parameters
    ----------
    *arguments : str
        Subcommand and arguments.
    git_dir : Path, optional
        The repository's git directory.
    protocols : str
        What git may fetch by, separated by ``:``.
    ceiling : str
        Directory above which no repository is looked for.

    Returns
    -------
    bytes
        What it printed.

    Raises
    ------
    GitFailed
        If it exits non-zero.
    """
    where = [f"--git-dir={git_dir}"] if git_dir else []
    program = [find_tool("git")]
    if protocols != NO_PROTOCOL:  # it writes, and must not go on when the lock died with us
        program = [find_tool("setpriv"), "--pdeathsig", "KILL", "--", *program]
    result = run_process(
        [*program, "--no-pager", *where, *arguments],
        env={**git_environment(protocols), "GIT_CEILING_DIRECTORIES": ceiling},
    )
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip()
        raise GitFailed(f"git {arguments[0]} failed: {said}", said=said)
    return result.stdout
