"""`python -m jaxmig`, the same as `jaxmig`."""

import sys

from jaxmig.cli import main

if __name__ == "__main__":
    sys.exit(main())
