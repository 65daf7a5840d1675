"""``python drivers/PredictDriver.py`` is the console program ``PredictDriver``."""

import sys

from nnlo.cli.predict import main

sys.exit(main())
