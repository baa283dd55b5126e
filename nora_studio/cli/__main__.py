"""Makes `python -m nora_studio.cli` the same as `nora-studio`."""

import sys

from nora_studio.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
