"""``python drivers/TrainingDriver.py`` is the console program ``TrainingDriver``."""

import sys

from nnlo.cli.train import main

sys.exit(main())
