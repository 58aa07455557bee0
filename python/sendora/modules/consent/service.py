"""Forgetting a person, from the request to the last trace (B069, C71, design 6).

    ask       the row is committed: from here on nothing makes the deletion get lost
    cut       every name of the person is found (those who were taken over too, C69) and kept sealed; the profile is
              deleted in the log, and whatever stands behind that place is somebody new
    bury      each name leaves a tombstone, a keyed hash, so that nobody who reads the log again brings back what stood
              before the cut
    rooms     each room erases what it has, the highest first, under every name that still leads to the person; events
              only what came before the cut
    aliases   the names that led there go. Had some not been known at the cut (a takeover under way, or more than
              ALIASES_MAX of them), the rooms erase under those as well
    wire      a push that was decided before the device was gone writes the name into the ledger when it is answered; so
              the ledger forgets once more when no chunk is at work any more, or LINGER_S after the cut
    anew      indexes and their snapshots are made anew from the tables: they remember names of people who are gone
    complete  the sealed names are dropped

The request's own call does the first two, if the stores keep up; else, and after a crash, the job does (jobs.py). Asked
for again while it runs, it begins again at its end; asked for after that, at once. Each step may be repeated. What a
crash leaves: a row with the names sealed under its org's data key, and a step that is done again.

What comes by the same name between the cut and the end of the rooms' work is somebody new; of that, events and the
profile stay. A room that cannot tell old from new (a device has one row) takes what it finds. Events are told apart by
the time of their receipt, so the clocks of the machines that run the API must agree.

What cannot be rewritten is short-lived: the log and the outcomes on it for 72 hours, what a consumer gave up for 30
days, answers kept for an idempotency key for a day, PostgreSQL's own dead rows until the next vacuum. A database that
is restored from a backup does not know the requests that came after the backup; they must be asked again.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from sendora.delivery import people as ledger
from sendora.kernel.bus import Message
from sendora.kernel.errors import NotFound, Unavailable
from sendora.kernel.http import Principal
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database
from sendora.modules import orgs, profiles
from sendora.modules.consent import store
from sendora.modules.consent.frames import strip
from sendora.modules.consent.model import AskDeletion, Cut, Deletion
from sendora.modules.consent.tombstones import Tombstones, hash_of, hashes_of

if TYPE_CHECKING:
    from sendora.kernel.module import Erase

GRACE_S: Final = 10.0
"""How long the job leaves a new request to the call that made it."""

LINGER_S: Final = 120.0
"""Longer than a request to a provider, its answer and the flush behind it take."""

WIRE_S: Final = 2.0
"""Between two looks at what is on the wire."""

ROUNDS_MAX: Final = 1_000
"""A million names of one person; beyond it something is wrong, and the request stays open."""


class Names(msgspec.Struct, frozen=True):
    """What is sealed."""

    asked: str
    """As the request said."""
    now: list[str]
    """Under which the rooms are erasing: the person, later what turned up behind."""
    known: list[str]
    """All of them."""


MakeAnew = Callable[[Kernel, OrgId, ProjectId], Awaitable[None]]
"""Indexes of the project, and their snapshots, are made anew from the tables."""


class _Bound:
    erasers: Sequence[tuple[str, "Erase"]] = ()
    make_anew: MakeAnew | None = None


def bind(erasers: Sequence[tuple[str, "Erase"]], make_anew: MakeAnew) -> None:
    """Called by the composition root. `erasers`: each room's `erase`, the highest room first. Profiles are not among
    them: the cut deletes them."""
    _Bound.erasers = erasers
    _Bound.make_anew = make_anew


# -- asking ----------------------------------------------------------------------------------------------------------


async def ask(kernel: Kernel, principal: Principal, asked: AskDeletion) -> Deletion:
    """The person's request, begun or begun again: one for each person of a project, however often it is asked."""
    org, project = principal.org, principal.project
    hash_ = hash_of(kernel.settings, org, project, asked.user_id)
    sealed = await _seal(kernel, org, hash_, _asked(asked.user_id))
    named_by = await orgs.person_hash(kernel, org, asked.user_id)
    async with kernel.db.transaction() as connection:
        deletion, begins = await store.begin(connection, org, project, hash_, sealed, GRACE_S)
        await orgs.audit(
            connection, principal, "person.deletion_requested", f"person:{named_by}", {"requestId": str(deletion.id)}
        )
    if not begins:
        return deletion
    try:
        return await cut(kernel, deletion)
    except (Unavailable, store.RunOver):
        # The job goes on with it, or has done so already.
        return await find(kernel, principal, deletion.id)


async def find(kernel: Kernel, principal: Principal, id_: UUID) -> Deletion:
    """Raises NotFound."""
    deletion = await store.find(kernel.db, principal.org, principal.project, id_)
    if deletion is None:
        raise NotFound("Deletion request")
    return deletion


# -- erasing ---------------------------------------------------------------------------------------------------------


async def cut(kernel: Kernel, deletion: Deletion) -> Deletion:
    """Find the names, and delete the profile in the log. Raises Unavailable when the profile store is behind it, or the
    log is away; RunOver when the request has been begun again."""
    org, project = deletion.org, deletion.project
    if not await profiles.wait(kernel, await kernel.bus.head()):
        raise Unavailable(message="The profile store is behind the log.")
    before = await _names(kernel, deletion)
    # What a try that came to no end has found: the profile may have gone with it.
    person = before.now[0]
    with suppress(NotFound):
        person = (await profiles.find(kernel, org, project, before.asked)).external_id
    known = list(dict.fromkeys([*await profiles.names_of(kernel.db, org, project, person), *before.known]))
    more = await profiles.names_behind(kernel.db, org, project, known)
    # A room finds the others by the person's name, unless there are more of them than anybody looks up at a time.
    names = Names(before.asked, [person] if len(more) == len(known) else known, known)
    deletion = await store.keep_names(kernel.db, deletion, await _seal(kernel, org, deletion.hash, names))
    there = await profiles.count_named(kernel.db, org, project, [person])
    position = await profiles.append_deletion(kernel, org, project, [person])
    return await store.cut(kernel.db, deletion, position, kernel.clock.now(), there)


async def erase(kernel: Kernel, deletion: Deletion) -> float | None:
    """Go on with a request: None when it is complete, else how many seconds to wait before the next try. May raise what
    a room raises; whatever was done stays done."""
    if deletion.position is None or deletion.cut_at is None:
        deletion = await cut(kernel, deletion)
    if not await profiles.wait(kernel, deletion.position or 0):
        raise Unavailable(message="The profile store is behind the log.")
    for _ in range(ROUNDS_MAX):
        names = await _names(kernel, deletion)
        # Not before the profile store has passed the cut: who led to the person until then must still be seen to.
        await store.bury(kernel.db, deletion, [_hash(kernel, deletion, name) for name in names.known])
        for room, forget in _Bound.erasers:
            if room not in deletion.done:
                rows = [await forget(kernel, deletion.org, deletion.project, name) for name in names.now]
                deletion = await store.room_done(kernel.db, deletion, room, sum(n or 0 for n in rows))
        left = await _drop_aliases(kernel, deletion, names)
        if left is None:
            return await _end(kernel, deletion, names)
        deletion = left
    raise RuntimeError("this person's names do not come to an end")


async def _drop_aliases(kernel: Kernel, deletion: Deletion, names: Names) -> Deletion | None:
    """The names that led to the person when it was asked for go: whoever comes to lead there later leads to somebody
    new. Gives the request when rooms must erase under more of them, None when all is known."""
    org, project = deletion.org, deletion.project
    found = await profiles.names_behind(kernel.db, org, project, names.known, before=deletion.requested_at)
    aliases = await profiles.aliases_among(kernel.db, org, project, found, deletion.requested_at)
    more = sorted(set(found).difference(names.known))
    if more:
        sealed = await _seal(kernel, org, deletion.hash, Names(names.asked, more, found))
        deletion = await store.go_on(kernel.db, deletion, sealed)
    if aliases:
        position = await profiles.append_deletion(kernel, org, project, aliases)
        if not await profiles.wait(kernel, position):
            raise Unavailable(message="The profile store is behind the log.")
        await store.add_profiles(kernel.db, deletion, len(aliases))
    return deletion if more else None


async def _end(kernel: Kernel, deletion: Deletion, names: Names) -> float | None:
    org, project = deletion.org, deletion.project
    since_cut = kernel.clock.now() - (deletion.cut_at or deletion.requested_at)
    if since_cut < timedelta(seconds=LINGER_S) and not await ledger.is_quiet(kernel, org, project):
        return WIRE_S
    for name in names.known:
        await ledger.forget(kernel, org, project, name)
    if _Bound.make_anew is None:
        raise RuntimeError("nobody has said which rooms there are")
    await _Bound.make_anew(kernel, org, project)
    sealed = await _seal(kernel, org, deletion.hash, _asked(names.asked))
    named_by = await orgs.person_hash(kernel, org, names.asked)
    async with kernel.db.transaction() as connection:
        completed = await store.complete(connection, deletion)
        if completed.again:
            await store.begin_again(connection, completed, sealed, 0.0)
        await orgs.audit_as(
            connection, org, orgs.SYSTEM, "person.erased", f"person:{named_by}", {"requestId": str(deletion.id)}
        )
    return None


async def _names(kernel: Kernel, deletion: Deletion) -> Names:
    if deletion.sealed is None:
        raise store.RunOver
    opened = await kernel.vault.open(deletion.org, _place(deletion.hash), deletion.sealed)
    return msgspec.json.decode(opened, type=Names)


def _asked(name: str) -> Names:
    return Names(name, [name], [name])


def _hash(kernel: Kernel, deletion: Deletion, name: str) -> bytes:
    return hash_of(kernel.settings, deletion.org, deletion.project, name)


async def _seal(kernel: Kernel, org: OrgId, hash_: bytes, names: Names) -> bytes:
    return await kernel.vault.seal(org, _place(hash_), msgspec.json.encode(names))


def _place(hash_: bytes) -> str:
    return f"deletion_requests.sealed.{hash_.hex()}"


# -- reading the log again -------------------------------------------------------------------------------------------


async def erased_behind(kernel: Kernel, db: Database | Connection, position: int) -> Tombstones | None:
    """The names whose cut does not lie before this place in the log; None, as a rule."""
    found = await store.ahead(db, position)
    return Tombstones(kernel.settings, found) if found else None


async def left(kernel: Kernel, connection: Connection, messages: Sequence[Message]) -> list[bytes]:
    """What is left of each frame (`profiles.Left`)."""
    tombstones = await erased_behind(kernel, connection, messages[0].position)
    if tombstones is None:
        return [message.data for message in messages]
    return [strip(message.data, message.position, tombstones).data for message in messages]


async def cut_of(kernel: Kernel, org: OrgId, project: ProjectId, name: str) -> Cut | None:
    """Where the deletion of this name that is under way parts old from new; None when there is none."""
    return await store.cut_of(kernel.db, org, project, hashes_of(kernel.settings, org, project, name))
