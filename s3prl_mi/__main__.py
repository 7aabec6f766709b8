"""`python -m s3prl_mi` is the command `s3prl-mi`."""

import sys

from .cli.main import main

sys.exit(main())
