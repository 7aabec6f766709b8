"""`python -m s3prl_mi.run_downstream`, as in torchrun's command lines, is the command `run_downstream.py`."""

import sys

from .cli.run_downstream import main

if __name__ == "__main__":
    sys.exit(main())
