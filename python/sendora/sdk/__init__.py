"""What runs at our callers' and not here: `browser/` is the module for web pages, its types, and the service worker.

They are plain files without a build and without dependencies; the API serves them under /sdk (`kernel/http/assets`).
The client for servers is Python and stands beside this folder (`sendora.client`).
"""

from pathlib import Path
from typing import Final

BROWSER: Final = Path(__file__).parent / "browser"
