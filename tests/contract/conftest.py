"""The contract, as the seeds and this project's decisions wrote it."""

from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def contract() -> dict[str, dict[str, Any]]:
    entries = yaml.safe_load((Path(__file__).parent / "contract.yaml").read_text())
    return {entry["id"]: entry for entry in entries}
