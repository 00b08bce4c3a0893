"""Suites share what starts a chain; they are modules beside each other, no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
