"""`python -m rislab.cli`, the same as the command `rislab`."""

import sys

from rislab.cli.main import main

sys.exit(main())
