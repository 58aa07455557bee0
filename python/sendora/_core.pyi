"""What the Rust library offers. Batches cross this border, never single events or recipients.

Every function releases the GIL while it works on a batch. `pgcopy` is PostgreSQL's binary COPY format with header and
trailer. Ids are 16 bytes, instants are milliseconds since 1970 UTC. `tests/core/test_stub.py` checks this file
against the binary.
"""

from collections.abc import Sequence
from typing import final

DIGEST: str
"""Hash of the Rust sources this binary was built from."""

# -- json ------------------------------------------------------------------------------------------------------------

def check_json(body: bytes) -> tuple[str, str] | None:
    """Judge a request body before anything decodes it: None, or (path, message).

    Refused: malformed JSON, NaN and infinities, numbers beyond the range of a double, integers beyond 64 bit signed,
    lone surrogates, U+0000, duplicate keys, more than 32 levels. The path is dotted, "" for the root.
    """

# -- events ----------------------------------------------------------------------------------------------------------

@final
class Checked:
    """A checked ingest body: what the API answers, and the records for the log."""

    single: bool
    """One event object, not a list."""
    malformed: tuple[str, str] | None
    """(field, message) when the body as a whole is refused; then the rest is empty."""
    too_large: str | None
    """Why the body as a whole is 413: more than 1,000 events, or (single) more than 256 KB."""
    accepted: int
    rejected: int
    errors: bytes
    """JSON: [{"index": 0, "fieldErrors": {"module": ["Required"]}}]; for a single object its fieldErrors under index 0.
    An event over 256 KB has the extra key "code": "PAYLOAD_TOO_LARGE"."""
    records: bytes
    """Length-prefixed records of the accepted events, in order."""
    event_id: str | None
    """Of a single event: the client's eventId, or the one that was made for it."""
    event_type: str | None
    user_id: str | None
    anonymous_id: str | None

def check_events(body: bytes, org: bytes, project: bytes, environment: str, received_ms: int, listed: bool) -> Checked:
    """`POST /events` (listed=False: one object, an array, or {"events": [..]}) and `/events/batch` (listed=True).

    Enforces B046, B035, C14, C94 and reliability.md 3.7 before the 2xx. `environment` overrides the client's (B008).
    A `projectId` or `orgId` that differs from the given ones is a fieldError. Timestamps: RFC 3339 (or an integer of
    milliseconds), from 2000-01-01 up to one day after `received_ms`. Without an eventId a UUIDv7 is made.
    """

def check_identify(body: bytes, org: bytes, project: bytes, environment: str, received_ms: int) -> Checked:
    """`POST /identify`: the record is an event `user.identified` (module profiles, properties = the traits) that also
    carries the change of the profile: email, traits, locale, timezone, and anonymousId as a takeover."""

def profile_record(
    org: bytes,
    project: bytes,
    external_id: str,
    at_ms: int,
    *,
    email: str | None = None,
    traits: bytes | None = None,
    delete: bool = False,
) -> bytes:
    """One record for the log: a PATCH (traits is a JSON object, merged; a null value removes the trait) or a DELETE.
    Such a record changes a profile and is no event: it is not counted and not stored in `events`."""

def frame(parts: Sequence[bytes]) -> bytes:
    """One log message from the records of several requests: magic, version, the number of events by project (counted
    here, at the way in), the records, CRC32C."""

def frame_projects(frame: bytes) -> list[bytes]:
    """The projects of its records, changes of profiles included, each once. ValueError for a damaged frame."""

@final
class EventBatch:
    """Frames on their way into `events`. Ordinals count the events (not profile records) of all frames from 0."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        """Raises ValueError when a frame's magic, lengths or CRC are wrong."""
    def __len__(self) -> int: ...
    def ends(self) -> list[int]:
        """How many events there are up to the end of each frame."""
    def months(self) -> list[int]:
        """The partitions that are needed: year * 12 + month - 1, sorted."""
    def keys(self) -> bytes:
        """org (16) || key (16) of every event, in order."""
    def repeats(self) -> list[int]:
        """Ordinals whose (org, key) stood earlier in this batch."""
    def copy(self, skip: Sequence[int], low: int = 0, high: int | None = None) -> bytes:
        """pgcopy of the ordinals in [low, high) that are not in `skip` (sorted), columns: org_id, key, project_id,
        event_type, module, person, device_id, session_id, environment, occurred_at, received_at, event_id,
        properties."""
    def record(self, ordinal: int) -> tuple[bytes, bytes, bytes]:
        """(org, project, the record as it stood in the log): what `bad_rows` keeps."""
    def counts(self, duplicate: Sequence[int], bad: Sequence[int]) -> list[tuple[bytes, bytes, int, int, int, int]]:
        """(org, project, accepted, stored, duplicate, bad): accepted as the frames declare it, the rest as given."""

@final
class ProfileBatch:
    """Frames on their way into `profiles`: one row for each person, later changes over earlier ones.

    Every event with a userId or an anonymousId makes sure of the person and of last_seen_at.
    """

    def __init__(self, frames: Sequence[bytes]) -> None: ...
    def __len__(self) -> int: ...
    def copy(self) -> bytes:
        """pgcopy, sorted by (org, project, external_id), columns: org_id, project_id, external_id, id (UUIDv5), reset
        bool (a delete came before what follows), present bool (something came after it, or there was no delete),
        email text, traits_set jsonb, traits_unset text[], locale text, timezone text, merged_into text,
        first_at timestamptz, last_at timestamptz."""

# -- audiences -------------------------------------------------------------------------------------------------------

@final
class Rule:
    """A compiled audience rule (C72, design 5). At most 8 levels and 64 nodes; pairs of C23 are synonyms."""

    def __init__(self, rules: bytes) -> None:
        """Raises ValueError with args (path, message), path such as "all.0.op"."""
    def event_types(self) -> list[str]:
        """Event types the rule asks for, synonyms included; empty when it asks for none."""
    def wants_properties(self) -> bool: ...
    def since(self, now_ms: int) -> int | None:
        """The earliest instant whose events matter, None when "ever" occurs."""

@final
class Evaluation:
    """One evaluation as of `now_ms`: feed both streams in any order and cut, then ask.

    events (pgcopy stream): person text, event_type text, occurred_at timestamptz, properties jsonb (NULL unless
    wanted).
    profiles (pgcopy stream): external_id text, email text, traits jsonb, lifecycle text.
    A person is in the answer when a profile row was fed and the rule holds. Memory: a few counters per person and leaf.
    Asking before a stream has ended is a ValueError: half a stream would make a smaller audience.
    `explained` keeps what `explain` needs (every counted event), for the rows of one person.
    """

    def __init__(self, rule: Rule, now_ms: int, *, explained: bool = False) -> None: ...
    def feed_events(self, chunk: bytes) -> None: ...
    def feed_profiles(self, chunk: bytes) -> None: ...
    def feed_days(self, chunk: bytes) -> None:
        """Columns as `Index.load_days`: events that were rolled up. No condition on properties holds for them."""
    def count(self) -> int: ...
    def preview(self) -> tuple[int, list[tuple[str, int, int]]]:
        """(count, [(path, alone, remaining)]) as `Index.preview`, with nothing left open."""
    def members(self) -> bytes:
        """pgcopy with one column, external_id text, sorted."""
    def page(self, offset: int, size: int) -> list[str]:
        """A page of the same."""
    def split(self, project: bytes) -> Split:
        """The same people by shard of the dispatch cluster."""
    def contains(self, external_id: str) -> bool: ...
    def explain(self, external_id: str) -> bytes | None:
        """JSON as of `Index.explain`; None for somebody who has no profile row, or without `explained`."""

@final
class Index:
    """The columnar audience index of one project, or of one part of it by user (design 5). Thread-safe; whoever asks
    waits for one frame or one piece of a stream at most, and never makes an update wait for an evaluation.

    Filled from Postgres (`load_people`, `load_events`, `load_days`, in this order when there are parts; each a pgcopy
    stream in any cut; then `loaded`), from a snapshot (`open`), or from nothing; kept by the log (`apply`).
    A leaf that the index cannot answer is *not here*: a column of more than 64k values, a counted stream that is not
    filled, seconds of a window that are not kept. Then `ask` gives members for certain, and candidates whom Postgres
    must decide: `Evaluation` over those people's rows.
    """

    def __init__(self, part: int = 0, parts: int = 1) -> None:
        """Part: xxh64(external_id, seed 0) mod `parts`."""
    @staticmethod
    def open(path: str) -> Index:
        """Read a snapshot; OSError, or ValueError for a file that is damaged or of another version."""
    def save(self, path: str) -> None:
        """Write a snapshot (beside, synced, renamed) of the state as of the call."""
    def load_people(self, chunk: bytes) -> None:
        """external_id text, email text, traits jsonb, lifecycle text, merged_into text: every row of profiles."""
    def load_events(self, chunk: bytes) -> None:
        """person text (as stored, not followed), event_type text, occurred_at timestamptz, properties jsonb (unread,
        NULL will do)."""
    def load_days(self, chunk: bytes) -> None:
        """person text, event_type text, day date, count int4, first timestamptz, last timestamptz; only of days whose
        events are not loaded."""
    def loaded(self, position: int, people: int | None = None) -> None:
        """The streams ended (else ValueError) and are what the stores held: events at `position` of the log, profiles
        at `people` (the same, if it is None)."""
    def apply(
        self, project: bytes, frames: Sequence[bytes], positions: Sequence[int], skips: Sequence[Sequence[int]]
    ) -> None:
        """Frames of the log in order, of which this project's records are taken. `skips`: for each frame, sorted, the
        ordinals of its events (of all projects, from 0) that the storer did not store (duplicate or bad). Frames at or
        below `position` are passed over. ValueError when a frame is damaged; then none was applied."""
    def erase(self, names: Sequence[str]) -> None:
        """Forget people whose events were erased in Postgres, each under all names; take a new snapshot afterwards."""
    part: int
    parts: int
    """As it was made, or as the snapshot says."""
    position: int
    """The log up to here is in."""
    def __len__(self) -> int:
        """People: profiles that nobody has taken over."""
    def streams_wanted(self, rule: Rule) -> list[str]:
        """Keys of counted streams that the rule asks for and nobody registered: JSON, {"event": .., "where": ..}."""
    def register_stream(self, key: str) -> None:
        """From here on the log is kept for it. ValueError when there are too many (256)."""
    def unregister_stream(self, key: str) -> None:
        """Also the way out of a load that failed."""
    def load_stream(self, key: str, chunk: bytes) -> None:
        """Its past, columns as `load_events` with properties: at least the events of the type (both spellings). One
        stream is loaded at a time."""
    def stream_loaded(self, key: str, position: int) -> None:
        """What was loaded is what the store held at `position`; ValueError when that lies before the `position` that
        the index had at the registration."""
    def missing(self, rule: Rule, now_ms: int) -> list[str]:
        """Paths of the leaves that are not here."""
    def ask(self, rule: Rule, now_ms: int) -> Answer: ...
    def preview(self, rule: Rule, now_ms: int) -> tuple[int, int, list[tuple[str, int | None, int]]]:
        """(count, undecided, [(path, alone, remaining)]): for each leaf as written, how many people hold it whatever
        the others say (None: not here, or unsure of somebody), and how many are not ruled out by it and those before
        it."""
    def explain(self, rule: Rule, external_id: str, now_ms: int) -> bytes | None:
        """JSON {member, asOf, tree}; None for somebody who is no person here. A node has path, truth, and all, any or
        not; a leaf has path, truth, condition, observed ({value} of a trait or lifecycle, {count} of a count operator,
        {last} of the others, each within the leaf's window) and flipsAt, the instant at which time alone changes its
        truth. A truth is null where a leaf is not here; then `Evaluation.explain` knows."""
    def memory(self) -> dict[str, int]:
        """Bytes of names, table, people, traits, events, streams."""

@final
class Answer:
    """What one walk found; it holds on to the names as they were."""

    count: int
    """Members for certain."""
    undecided: int
    """Candidates."""
    def members(self) -> bytes:
        """pgcopy with one column, external_id text, sorted: those for certain."""
    def candidates(self) -> bytes:
        """The same of those whom Postgres must decide; empty when no leaf is missing and nobody is torn."""

@final
class Split:
    """Members of an audience, cut by shard as `shards` cuts; its length is the number of all of them."""

    def __init__(self, project: bytes, members: bytes) -> None:
        """Members: pgcopy with one column, or several such streams behind one another."""
    def __len__(self) -> int: ...
    def of(self, shard: int) -> bytes:
        """pgcopy with one column, external_id text, in no order."""

def member_names(members: bytes, offset: int, size: int) -> list[str]:
    """A page of the external ids in a pgcopy of one column."""

# -- deciding and rendering ------------------------------------------------------------------------------------------

@final
class Template:
    """`{{path.to.value}}` of B122: compiled once, rendered often; unresolved paths are empty (B125), nothing is escaped
    (B126)."""

    def __init__(self, text: str) -> None: ...
    def paths(self) -> list[str]: ...
    def render(self, scopes: bytes) -> str:
        """`scopes`: JSON object of objects, {"event": {..}, "user": {..}, "trait": {..}}. Output is cut at 4 KB."""

@final
class Caps:
    """Frequency caps of one (org, shard): who was sent what in the last 24 hours (B111, B112, C37)."""

    def __init__(self) -> None: ...
    def load(self, chunk: bytes) -> None:
        """pgcopy stream: person text (userId, else the recipient's id), send_id uuid, at timestamptz."""
    def forget_before(self, at_ms: int) -> None: ...

@final
class Note:
    """A send, compiled: content, locales, A/B test, policy. JSON in camelCase:

    {sendId, title, body, localizedTitle?: {tag: text}, localizedBody?: {tag: text}, event?: {},
     test?: {id, variants: [{key, title?, body?, weight, holdout?}]},
     raw: bool (tokens[] send: is_active and owner are not checked), plannedAt: ms, expiresAt: ms,
     policy: {quietStart?: 0-23, quietEnd?, defer: bool, capDay?, capHour?, defaultZone?, bypass: bool}}
    """

    def __init__(self, spec: bytes) -> None:
        """Raises ValueError with args (path, message)."""
    def decide(self, rows: bytes, caps: Caps | None, now_ms: int, wire: Wire | None = None) -> Decided:
        """Decide and render a whole chunk; `wire`: also its placeholders beside title and body, for `Parcels`.

        rows (pgcopy), columns: position int2, recipient uuid, platform text (NULL: the token is gone), token text,
        subscription jsonb, environment text, bundle_id text, user_id text, is_active bool, owner_since timestamptz,
        locale text, timezone text, traits jsonb, email text, created_at timestamptz, last_seen_at timestamptz.

        The order of reasons: token_removed, inactive_token, owner_changed (suppressed); expired: ttl (expired);
        quiet_hours (deferred until the window's end, or suppressed); holdout, locale_unsupported, frequency_cap
        (suppressed). A person who passes is counted in `caps` at once, so that chunks in flight see each other.
        Locale chain B114/B115/C40; variant C44: sha256(testId + (userId or recipient id)) mod 100. A variant's own
        title or body goes before the localized ones. ValueError when `rows` or what `caps` was loaded from was cut.
        """
    def explain(self, rows: bytes, caps: Caps | None, now_ms: int) -> str:
        """The decision on one recipient with its steps, told by the same code: JSON `{state, reason, dueAt, variant,
        steps: [{step, passed, ...}]}`; the state is `send` for who would be sent to. Arguments as `decide` takes them;
        ValueError also when `rows` is not one row."""

@final
class Decided:
    """One verdict for each recipient of the chunk."""

    def sends(self) -> list[tuple[int, bytes, str, str, str | None, str, str | None, str | None, str, str, str | None]]:
        """(position, recipient, platform, token, subscription JSON, environment, bundle_id, user_id, title, body,
        variant key)."""
    def stays(self) -> list[tuple[int, bytes, str | None, str, str, int | None, str | None]]:
        """(position, recipient, user_id, state, reason, due_ms, variant key); due_ms only for state "deferred"."""

# -- requests to providers, and what becomes of them -----------------------------------------------------------------

@final
class Wire:
    """A send's requests and its providers' credentials, compiled: what `modules/push/wire.py` writes."""

    def __init__(self, spec: bytes, prover: Prover | None = None) -> None:
        """`prover` makes the VAPID tokens that the spec does not hold. Raises ValueError with args (path, message)."""

@final
class Prover:
    """The org's VAPID key: proofs for push services (RFC 8292), kept until half of their 12 hours are over."""

    def __init__(self, key: bytes, subject: str) -> None:
        """`key`: PKCS #8 in DER. Raises ValueError with args (path, message)."""
    def proof(self, origin: str, now_s: int) -> str: ...

@final
class Parcels:
    """The calls of a chunk that was decided with this very wire (else ValueError): on a lane, or refused."""

    def __init__(self, wire: Wire, decided: Decided) -> None: ...
    def __len__(self) -> int:
        """How many can be sent."""
    def requests(
        self, now_s: int
    ) -> tuple[list[tuple[int, str, str, str, list[tuple[str, str]], bytes]], list[tuple[int, str, str]]]:
        """(position, lane, provider, url, headers, body) of each as of now, and (position, state, reason) of those that
        cannot be built (a browser's keys that are none, a push service without a proof). A Web Push body is encrypted
        under a fresh key each time."""
    def refused(self) -> list[tuple[int, str, str]]:
        """(position, state, reason); "deferred" where a provider's token cannot be had right now."""

def encrypt_webpush(batch: Sequence[tuple[bytes, str, str]]) -> list[bytes | None]:
    """RFC 8291 of (content, p256dh, auth), each under a key pair and a salt of its own; None where the keys are none,
    or the content has more than 3,993 bytes."""

def read_answer(
    transport: str, status: int, headers: dict[str, str], body: bytes
) -> tuple[str, str | None, str | None, tuple[float, bool, bool] | None, str | None, bool, bool]:
    """(state, reason, provider_id, (base_s, doubling, jitter), retry_after, renews, hopeless): the `Verdict` of
    `modules/push/{apns,fcm,webpush}.read`. Names of headers in lower case."""

def rule_answered(
    transport: str, status: int, headers: dict[str, str], body: bytes, tries: int, now_ms: int, chance: float
) -> tuple[str, str | None, str | None, int | None, bool, bool]:
    """What an answer means for the recipient: (state, reason, provider_id, due_ms, repeated, counted)."""

def rule_unanswered(
    reason: str, tries: int, now_ms: int, chance: float
) -> tuple[str, str | None, str | None, int | None, bool, bool]:
    """Bytes may have left and no answer came."""

def rule_unsent(
    transport: str, detail: str, planned_ms: int, now_ms: int
) -> tuple[str, str | None, str | None, int | None, bool, bool]:
    """Nothing has left."""

def retry_after_s(header: str | None, now_ms: int) -> float | None:
    """Retry-After as seconds: a number, or an HTTP date."""

def settle(
    ruling: tuple[str, str | None, str | None, int | None, bool, bool],
    tries: int,
    at_most_once: bool,
    expires_ms: int,
    unanswered: str | None,
    sent: bool,
) -> tuple[str, str | None, str | None, int | None, bool, bool]:
    """What the ledger says of it, with its history (`delivery.retry.settle`). `expires_ms`: the first millisecond at
    which the send's time is over."""

@final
class OutcomeBatch:
    """Settled outcomes of one chunk, as the ledger takes them."""

    def __init__(
        self,
        org: bytes,
        send: bytes,
        shard: int,
        seq: int,
        attempt: int,
        outcomes: Sequence[
            tuple[
                int,
                bytes,
                str | None,
                str | None,
                str | None,
                tuple[str, str | None, str | None, int | None, bool, bool],
            ]
        ],
    ) -> None:
        """(position, recipient, user_id, variant, provider, ruling) of each, ruling as `settle` gives it. Texts are cut
        at 500 characters and lose U+0000."""
    def __len__(self) -> int: ...
    def counts(self) -> list[tuple[str, str, int]]:
        """(state, reason or "", how many)."""
    def follow_up(self) -> list[tuple[int, bool, int, bytes]]:
        """(attempt, repeated, due_ms, ids behind one another) of deferred recipients who go on together."""
    def first_position(self) -> int | None: ...

def copy_outcomes(batches: Sequence[OutcomeBatch], at_us: int) -> bytes:
    """pgcopy of all their rows, columns as `delivery.ledger.COLUMNS`; `at_us` is when they are written, in microseconds
    since 1970."""

# -- how recipients ended -------------------------------------------------------------------------------------------

@final
class Ended:
    """What some chunks have brought to an end, for the log and for the counters."""

    def __init__(self, chunks: Sequence[tuple[bytes, bytes, bytes, int, int]], rows: bytes) -> None:
        """chunks: (org, project, send, shard, seq). rows (pgcopy, in any order): place of the chunk in that list, from
        1, int8; recipient uuid, user_id text, state text, reason text, variant text, provider text, provider_id text,
        attempt int2, repeated bool, at timestamptz."""
    def messages(self) -> list[tuple[int, bytes]]:
        """(place from 0, JSON of `delivery.account.Outcomes`) of each chunk that has rows."""
    def counts(self) -> list[tuple[bytes, bytes, int, str, str, str, int, int]]:
        """(org, send, days since 1970, state, reason, variant, n, repeated), sorted; reason and variant "" for none."""

def address_health(
    messages: Sequence[bytes], retiring: Sequence[str]
) -> list[tuple[bytes, bytes, str, int, list[tuple[bytes, str, str | None, int]]]]:
    """What messages of `Ended` say of addresses, one row for each (org, project, provider): how many were accepted, and
    (recipient, reason, provider_id, at_ms) of those that were rejected for one of the retiring reasons."""

# -- buckets and signatures ------------------------------------------------------------------------------------------

def hash_engines() -> list[str]:
    """The ways of hashing that this processor has, the preferred one first: "avx512", "sha-ni", "avx2", "portable".
    All give the same digests; `by` forces one of them."""

def buckets(test_id: str, user_ids: Sequence[str], by: str | None = None) -> bytes:
    """sha256(test_id + user_id) as a big-endian integer, mod 100, one byte each (B117, C44)."""

def hmac_sha256(key: bytes, bodies: Sequence[bytes], by: str | None = None) -> list[bytes]:
    """HMAC-SHA256 of each body under one key, 32 bytes each."""

def shards(project: bytes, persons: Sequence[str]) -> bytes:
    """The top 6 bits of xxh64(project || person in UTF-8, seed 0), one byte each."""

# -- lanes -----------------------------------------------------------------------------------------------------------

@final
class Lanes:
    """Connections to providers (`rust/lanes`), driven by threads of their own.

    Replies of all batches come back through one queue: `fileno` becomes readable when it turns non-empty, and `drain`
    takes everything.
    """

    def __init__(self, config: str) -> None:
        """JSON in camelCase, see `rust/lanes/src/settings.rs`. ValueError, or OSError without threads or trust."""
    def fileno(self) -> int: ...
    def identify(self, lane: str, certificate: bytes, key: bytes) -> None:
        """On this lane the provider knows us by a certificate (PEM, with its key): to be said before each batch or
        shipment. ValueError for what is none."""
    def batch(self, id: int, class_: str, tenant: bytes) -> LaneBatch:
        """Closed until it is given a deadline."""
    def drain(self) -> list[tuple[int, list[tuple[int, str, int, dict[str, str], bytes, str]]]]:
        """(batch, [(position, fate, status, headers, body, detail)]); once for each call."""
    def drain_all(self) -> None:
        """No request leaves any more; what waits is `unsent`."""
    def held_s(self, lane: str) -> float: ...
    def limit(self, lane: str) -> int:
        """Requests that may be on the lane at a time; 1 until its credential has been accepted."""
    def stats(self) -> tuple[list[tuple[str, int, int]], list[tuple[str, list[int], float]]]:
        """Since the last call: [(provider, status, requests)], [(provider, requests by bucket of seconds, sum)]."""
    def standing(self) -> list[tuple[str, int, bool]]:
        """(provider, open connections, held) of each lane."""
    def close(self) -> None:
        """What is on the wire is `unknown`, what waits `unsent`; both can be drained afterwards."""

@final
class LaneBatch:
    """The calls of one chunk: they share a class, a tenant and a deadline."""

    def deadline(self, seconds: float) -> None:
        """From now, on a clock that goes on while the machine sleeps; asked right before each request."""
    def stop(self) -> None: ...
    def submit(self, calls: Sequence[tuple[int, str, str, Sequence[tuple[str, str]], bytes]]) -> None:
        """(position, lane, url, headers, body)"""

@final
class Shipment:
    """A chunk in the library's hands: decided when it is made, then admitted piece by piece; its requests are built,
    encrypted and sent, their answers read and settled without Python."""

    number: int
    """Names it in `Lanes.drain`, there with an empty list: something of it can be taken."""

    def __init__(
        self,
        lanes: Lanes,
        note: Note,
        wire: Wire,
        rows: bytes,
        caps: Caps | None,
        chunk: tuple[bytes, bytes, int, int, int, int, int, bool],
        send: tuple[bool, int, int, int],
        class_: str,
        now_ms: int,
    ) -> None:
        """rows as `Note.decide` takes them; chunk: (org, send, shard, seq, attempt, tries, started, repeated); send:
        (at_most_once, planned_ms, expires_ms, retried_ms or 0)."""
    def waiting(self) -> int:
        """How many have not been admitted."""
    def lanes(self, n: int) -> list[tuple[str, int]]:
        """Of the next n, how many go by which lane."""
    def fit(self, granted: dict[str, int]) -> int:
        """How many of those who are next have a place when each lane has so many."""
    def mark(self, n: int) -> int:
        """The position behind the n-th of those who wait: where the chunk's mark must stand before they are
        admitted."""
    def admit(self, n: int) -> None:
        """The next n may leave."""
    def deadline(self, seconds: float) -> None:
        """As that of a `LaneBatch`."""
    def renew(self, lanes: Sequence[str], wire: Wire | None) -> None:
        """Those whose token has expired on these lanes go again under the wire's fresh one; None: their refusals
        stand."""
    def take(self) -> tuple[OutcomeBatch, list[tuple[str, int]], list[str], int, list[tuple[str, str]]]:
        """(outcomes; of those that were admitted, how many have ended by lane; lanes for whose fresh token some
        wait; recipients without an outcome; (lane, reason) where the send was just halted)."""

# -- simulator -------------------------------------------------------------------------------------------------------

def simulate(config: str) -> None:
    """Run the providers' simulator until SIGTERM or SIGINT; `config` is the JSON of `kernel.config.Simulator`."""
