"""What the clock makes this room do."""

from typing import Final

from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.data_io import store


async def forget_exports(kernel: Kernel) -> None:
    await store.sweep(kernel.db)


JOBS: Final = (Job(name="data_io.exports", every_s=3_600, run=forget_exports),)
