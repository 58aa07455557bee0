"""Answers the questions of other processes (`Module.answers`), as a service of this one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sendora.kernel.life import Kernel
    from sendora.kernel.module import Answer


class Answering:
    """One subject. All processes that answer it share its questions."""

    def __init__(self, kernel: Kernel, answer: Answer) -> None:
        self._kernel = kernel
        self._answer = answer

    @property
    def name(self) -> str:
        return f"answer.{self._answer.subject}"

    async def run(self, stop: asyncio.Event) -> None:
        subject = self._answer.subject
        end = await self._kernel.bus.answer(subject, subject, partial(self._answer.handle, self._kernel))
        try:
            await stop.wait()
        finally:
            await end()
