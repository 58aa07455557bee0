"""The seam to providers: a whole decided chunk crosses it, and outcomes come back.

A lane is (provider credential, environment), or the origin of a Web Push endpoint; its name comes with each call. Lanes
own connections and know nothing of chunks' history, leases or the ledger: before bytes leave they ask the `Gate`, and
it says how many recipients may go and for how long the lease still lasts.

A lane promises places before the gate is asked: at most twice as many as it may have on the wire. So a provider that is
slow, silent, or that answers one request at a time holds a small part of the worker's window, and not what the lanes of
others could use.

Two kinds pass one conformance suite: `PlainLanes` (httpx), and `NativeLanes` (rust/lanes), which also carries chunks
whose requests no Python ever sees.
"""

from sendora.delivery.lanes.native import NativeLanes
from sendora.delivery.lanes.plain import PlainLanes
from sendora.delivery.lanes.seam import Gate, Lanes

__all__ = ["Gate", "Lanes", "NativeLanes", "PlainLanes"]
