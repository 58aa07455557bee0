"""What one process keeps for all sends: provider tokens, VAPID proofs, and who was refused."""

from typing import Final
from urllib.parse import urlsplit
from uuid import UUID
from weakref import WeakKeyDictionary

from sendora import _core
from sendora.kernel.clock import millis
from sendora.kernel.life import Kernel
from sendora.modules.push import webpush, wire
from sendora.modules.push.grants import Grants
from sendora.modules.push.halts import Halts
from sendora.modules.push.model.providers import Credential, Vapid

PROOF_RENEW_S: Final = webpush.PROOF_LIFE_S / 2
PROOFS_MAX: Final = 1_000
"""VAPID tokens kept: one for each org and push service that a worker talks to."""


class Process:
    """What lives longer than a send."""

    def __init__(self, kernel: Kernel) -> None:
        self.grants = Grants(kernel)
        self.halts = Halts()
        self._kernel_clock = kernel.clock
        self._subject = subject(kernel.settings.http.base_url)
        self._proofs: dict[tuple[UUID, str], tuple[str, int]] = {}
        self._provers: dict[UUID, _core.Prover] = {}

    def prover(self, credential: Credential) -> _core.Prover | None:
        """The same for shipments: it keeps its tokens itself."""
        if not isinstance(credential.secret, Vapid):
            return None
        found = self._provers.get(credential.id)
        if found is None:
            if len(self._provers) >= PROOFS_MAX:
                self._provers.clear()
            found = self._provers[credential.id] = wire.prover(credential.secret, self._subject)
        return found

    def proof(self, credential: Credential, origin: str) -> str:
        """A VAPID token; it may be shared by all requests to an origin until half of its life is over."""
        if not isinstance(credential.secret, Vapid):
            raise TypeError("a proof is made with a VAPID key")
        now_s = millis(self._kernel_clock.now()) // 1_000
        kept = self._proofs.get((credential.id, origin))
        if kept is not None and kept[1] <= now_s < kept[1] + PROOF_RENEW_S:
            return kept[0]
        if len(self._proofs) >= PROOFS_MAX:
            self._proofs.clear()
        made = webpush.prove(credential.secret, origin, self._subject, now_s)
        self._proofs[credential.id, origin] = (made, now_s)
        return made


_processes: WeakKeyDictionary[object, Process] = WeakKeyDictionary()


def process(kernel: Kernel) -> Process:
    """Of this kernel; a test may have several in one process."""
    found = _processes.get(kernel.db)
    if found is None:
        found = _processes[kernel.db] = Process(kernel)
    return found


def subject(base_url: str) -> str:
    """Whom a push service may turn to (RFC 8292): our public address, or a mailbox at its host."""
    split = urlsplit(base_url)
    return base_url if split.scheme == "https" else f"mailto:postmaster@{split.hostname or 'localhost'}"
