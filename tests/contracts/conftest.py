"""The state machine and the checks of judges are modules beside the tests, which are no package."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "disputes")]
