import sys

from nnlo.cli.getdata import main

sys.exit(main())
