"""`python -m agilab` is the `agilab` command."""

import sys

from agilab.cli import main

if __name__ == "__main__":
    sys.exit(main())
