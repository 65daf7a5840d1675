"""``python drivers/OptimizationDriver.py`` is the console program ``OptimizationDriver``."""

import sys

from nnlo.cli.optimize import main

sys.exit(main())
