"""Open NoRA Studio in a browser: `python app.py` (the same as `nora-studio ui`)."""

import sys

from nora_studio.errors import run_entry
from nora_studio.ui.server import run

if __name__ == "__main__":
    sys.exit(run_entry(lambda: run(sys.argv[1:])))
