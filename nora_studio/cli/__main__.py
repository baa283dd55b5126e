"""Run `nora-studio` as `python -m nora_studio.cli`."""

import sys

from nora_studio.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
