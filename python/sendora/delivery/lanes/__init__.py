"""Lanes to providers: the seam, and two implementations that keep one set of promises."""

from sendora.delivery.lanes.native import NativeLanes
from sendora.delivery.lanes.plain import PlainLanes
from sendora.delivery.lanes.seam import (
    BREAKER_FAILURES,
    BREAKER_S,
    LANES_MAX,
    PROMISED,
    Gate,
    Lanes,
)

__all__ = [
    "BREAKER_FAILURES",
    "BREAKER_S",
    "LANES_MAX",
    "PROMISED",
    "Gate",
    "Lanes",
    "NativeLanes",
    "PlainLanes",
]
