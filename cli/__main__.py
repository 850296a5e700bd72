"""`python -m cli`: the way in for processes that the command line starts itself."""

import sys

from cli.main import main

sys.exit(main())
