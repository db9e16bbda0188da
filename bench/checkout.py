"""Let scripts of this folder run from a checkout in which jaxmig is not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("jaxmig") is None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
