"""``python -m buildvm_nb.cli``: what machines in the background are run by."""

import sys

from buildvm_nb.cli.entry import main

sys.exit(main())
