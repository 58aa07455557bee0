"""Data in and out: what an organisation, or one of its people, may take along."""

from sendora.kernel.module import Module
from sendora.modules.data_io.jobs import JOBS
from sendora.modules.data_io.routes import ROUTES
from sendora.modules.data_io.service import bind, erase, export

__all__ = ["bind", "module"]

module = Module(name="data_io", routes=ROUTES, jobs=JOBS, erase=erase, export=export)
