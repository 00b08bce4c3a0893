"""The simulator is a program of its own (`python tests/sim`); its tests import from it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
