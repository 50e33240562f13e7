"""Sources: fetched and unpacked on the host without running them, built in the guest.

`fetch` takes any `buildvm_nb.model.case.Source` and returns a `Fetched`.
"""

from buildvm_nb.source.fetch import fetch
from buildvm_nb.source.git import Commit, list_commits
from buildvm_nb.source.history import Revision, list_revisions
from buildvm_nb.source.tree import Fetched, tree_digest

__all__ = [
    "Commit",
    "Fetched",
    "Revision",
    "fetch",
    "list_commits",
    "list_revisions",
    "tree_digest",
]
