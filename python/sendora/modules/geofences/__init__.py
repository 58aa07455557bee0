"""Geofences: circles on the ground, the devices that watch them, and what they report."""

from sendora.kernel.module import Module
from sendora.modules.geofences.consumers import COUNTER, consumer
from sendora.modules.geofences.jobs import JOBS
from sendora.modules.geofences.routes import ROUTES

__all__ = ["COUNTER", "module"]

module = Module(name="geofences", routes=ROUTES, consumers=(consumer,), jobs=JOBS)
