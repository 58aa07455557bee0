"""Both sides of a comparison read the same zone files: those of the tzdata wheel.

Python looks at its search path, the library at TZDIR; it reads that when it is first asked for a zone.
"""

import os
import zoneinfo
from pathlib import Path

import tzdata

FOLDER = Path(tzdata.__file__).parent / "zoneinfo"

os.environ["TZDIR"] = str(FOLDER)
zoneinfo.reset_tzpath(to=[str(FOLDER)])
