"""Sources: fetched and unpacked on the host without running them, built in the guest.

`fetch` takes any `buildvm_nb.model.case.Source` and returns a `Fetched`.
"""

from buildvm_nb.source.fetch import fetch as fetch
from buildvm_nb.source.git import Commit as Commit
from buildvm_nb.source.git import list_commits as list_commits
from buildvm_nb.source.history import Revision as Revision
from buildvm_nb.source.history import list_revisions as list_revisions
from buildvm_nb.source.tree import Fetched as Fetched
from buildvm_nb.source.tree import tree_digest as tree_digest
