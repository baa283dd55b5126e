"""Open NoRA Studio in a browser: `python app.py` (the same as `nora-studio ui`)."""

import sys

from nora_studio.app.serve import run
from nora_studio.runs.entry import run_entry

if __name__ == "__main__":
    sys.exit(run_entry(lambda: run(sys.argv[1:])))
