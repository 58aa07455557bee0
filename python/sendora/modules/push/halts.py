"""When a credential is refused whoever the recipient is, the rest of the send is not tried (F-V11). Pure.

Only for answers that every request under the credential would get (`Meaning.hopeless`): a revoked key, an API that is
switched off. What may be one recipient's own (a wrong topic, a payload that grew) halts nobody, however often it comes.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

from sendora.modules.push.parts import Verdict

REFUSALS_MAX: Final = 100
"""Identical refusals in a row, without a single other answer between them."""

KEPT_MAX: Final = 10_000
"""Sends and lanes that are remembered; who is forgotten is refused another hundred times."""

Since = tuple[UUID, datetime | None]
"""A send, and when it was last retried: whoever retries may have mended what was refused."""


class Halts:
    """What one process has heard, by send and lane."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[Since, str], tuple[str, int]] = {}

    def heard(self, send: Since, lane: str, verdict: Verdict) -> bool:
        """Take an answer in; True when it is the one that halts the send on this lane."""
        key = send, lane
        reason, n = self._refusals.get(key, ("", 0))
        if n >= REFUSALS_MAX or verdict.state in ("deferred", "damaged"):
            return False  # Halted already, or no word about the credential.
        if not verdict.hopeless or verdict.reason is None:
            self._refusals.pop(key, None)
            return False
        if len(self._refusals) >= KEPT_MAX and key not in self._refusals:
            self._refusals.clear()
        n = n + 1 if verdict.reason == reason else 1
        self._refusals[key] = verdict.reason, n
        return n >= REFUSALS_MAX

    def reason(self, send: Since, lane: str) -> str | None:
        """Why nobody is asked any more; None while somebody is."""
        reason, n = self._refusals.get((send, lane), ("", 0))
        return reason if n >= REFUSALS_MAX else None
