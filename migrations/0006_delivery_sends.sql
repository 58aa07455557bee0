-- A send of any channel. `content` and `target` belong to the channel; delivery only carries them.
CREATE TABLE sends (
    org_id        uuid NOT NULL,
    id            uuid NOT NULL,              -- UUIDv7: its time chooses the partition of its deliveries
    project_id    uuid NOT NULL,
    channel       text NOT NULL,
    class         text NOT NULL CHECK (class IN ('now', 'bulk')),
    delivery      text NOT NULL CHECK (delivery IN ('at_least_once', 'at_most_once')),
    status        text NOT NULL CHECK (status IN
        ('scheduled', 'queued', 'sending', 'paused', 'sent', 'failed', 'suppressed', 'cancelled')),
    target        jsonb NOT NULL,
    content       jsonb NOT NULL,
    log_position  bigint NOT NULL,            -- where the log stood at the call: planned when the stores have passed it
    created_at    timestamptz NOT NULL DEFAULT now(),
    scheduled_for timestamptz,
    expires_at    timestamptz NOT NULL,
    planned_at    timestamptz,                -- when the last chunk was committed
    audience_as_of timestamptz,
    audience_complete boolean,                -- false: planned as of what was known after 10 s
    token_count   integer,
    unreachable   integer NOT NULL DEFAULT 0,
    closed_at     timestamptz,
    error         text,
    -- Which planner works on it: one at a time, guarded by the epoch; given up after 5 that did not come to an end.
    plan_epoch    bigint NOT NULL DEFAULT 0,
    plan_until    timestamptz NOT NULL DEFAULT '-infinity',
    plan_claims   smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, id)
);

CREATE INDEX sends_due ON sends (scheduled_for) WHERE status = 'scheduled';
CREATE INDEX sends_to_plan ON sends (created_at) WHERE status IN ('queued', 'sending', 'paused') AND planned_at IS NULL;
CREATE INDEX sends_running ON sends (org_id, id) WHERE status IN ('queued', 'sending');
CREATE INDEX sends_listed ON sends (org_id, project_id, created_at DESC);

-- How far a send's plan has come in each shard: the highest recipient id that stands in a chunk.
CREATE TABLE plan_positions (
    org_id   uuid NOT NULL,
    send_id  uuid NOT NULL,
    shard    smallint NOT NULL,
    position uuid NOT NULL,
    seq      integer NOT NULL,                -- the next chunk's number in this shard
    PRIMARY KEY (org_id, send_id, shard)
);

-- The dispatch queue. At most 1,000 recipients of one shard; no names, traits or addresses.
CREATE TABLE chunks (
    org_id     uuid NOT NULL,
    send_id    uuid NOT NULL,
    shard      smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    seq        integer NOT NULL,
    class      text NOT NULL,
    planned    boolean NOT NULL,              -- the planner's; else what another chunk of the send did not finish
    attempt    smallint NOT NULL,             -- of its recipients; quiet hours make a new chunk without a new attempt
    repeated   boolean NOT NULL DEFAULT false,-- its recipients were written once without an answer (at_least_once)
    recipients uuid[] NOT NULL,
    size       smallint NOT NULL GENERATED ALWAYS AS (cardinality(recipients)) STORED, -- spares reading 16 kB to count
    started    smallint NOT NULL DEFAULT 0,   -- the mark: bytes of positions below it may have left
    due_at     timestamptz NOT NULL,
    closed_at  timestamptz,
    accounted  boolean NOT NULL DEFAULT false,
    claims     smallint NOT NULL DEFAULT 0,   -- how often an owner took it up; parked after 5
    PRIMARY KEY (org_id, send_id, shard, seq),
    CHECK (cardinality(recipients) BETWEEN 1 AND 1000),
    CHECK (started BETWEEN 0 AND cardinality(recipients))
);

CREATE INDEX chunks_due ON chunks (shard, due_at) WHERE closed_at IS NULL;
CREATE INDEX chunks_to_account ON chunks (closed_at) WHERE closed_at IS NOT NULL AND NOT accounted;
CREATE INDEX chunks_unaccounted ON chunks (org_id, send_id) WHERE NOT accounted;

-- The ledger: one row for each recipient of a chunk, written by COPY with the mark. `deferred` says that the recipient
-- goes on in a later chunk; the other states are final. Partitioned by the month of the send's own id.
CREATE TABLE deliveries (
    org_id      uuid NOT NULL,
    send_id     uuid NOT NULL,
    shard       smallint NOT NULL,
    seq         integer NOT NULL,
    position    smallint NOT NULL,
    recipient   uuid NOT NULL,
    user_id     text,
    state       text NOT NULL CHECK (state IN ('accepted', 'rejected', 'suppressed', 'expired', 'unknown', 'deferred')),
    reason      text,
    variant     text,
    provider_id text,
    attempt     smallint NOT NULL,
    repeated    boolean NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (org_id, send_id, shard, seq, position)
) PARTITION BY RANGE (send_id);

-- What the owner of a shard reads back into its frequency caps.
CREATE INDEX deliveries_recent ON deliveries (org_id, shard, at);

-- What a person was sent: for export, and so that an erasure finds the name (delivery/people.py).
CREATE INDEX deliveries_of_person ON deliveries (org_id, user_id) WHERE user_id IS NOT NULL;

-- The last failures of an organisation (B102).
CREATE INDEX deliveries_failed ON deliveries (org_id, at DESC) WHERE state IN ('rejected', 'expired', 'unknown');

-- Final outcomes folded by send and UTC day when a chunk is accounted: what lists and statistics read. The ledger is the
-- truth; `reason` and `variant` are '' where there is none.
CREATE TABLE send_counts (
    org_id     uuid NOT NULL,
    send_id    uuid NOT NULL,
    day        date NOT NULL,
    state      text NOT NULL,
    reason     text NOT NULL,
    variant    text NOT NULL,
    n          bigint NOT NULL,
    repeated   bigint NOT NULL,
    PRIMARY KEY (org_id, send_id, day, state, reason, variant)
);

-- Which dispatch worker owns which of the 64 virtual shards; every flush is guarded by the epoch.
CREATE TABLE shard_leases (
    shard       smallint PRIMARY KEY,
    holder      text,
    epoch       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO shard_leases (shard) SELECT generate_series(0, 63);

-- Dispatch workers that are alive, so that each takes its share of the shards.
CREATE TABLE dispatchers (
    holder  text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);
