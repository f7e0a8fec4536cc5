"""``python -m agentpipe`` is the command ``agentpipe``."""

import sys

from agentpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
