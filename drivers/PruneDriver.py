"""``python drivers/PruneDriver.py`` is the console program ``PruneDriver``."""

import sys

from nnlo.cli.prune import main

sys.exit(main())
