-- A send that comes again: each occurrence is a send of its own, made when the one before it is due, so that there is one
-- ahead at any time.
CREATE TABLE schedules (
    org_id     uuid NOT NULL,
    id         uuid NOT NULL,
    project_id uuid NOT NULL,
    channel    text NOT NULL,
    status     text NOT NULL CHECK (status IN ('active', 'ended', 'cancelled')),
    asked      jsonb NOT NULL,                -- what every occurrence submits
    starts_at  timestamp NOT NULL,            -- local: DTSTART
    zone       text NOT NULL,                 -- IANA name, or 'recipient'
    rrule      text,
    cron       text,
    next_local timestamp NOT NULL,            -- the occurrence ahead, or the last one
    next_at    timestamptz NOT NULL,
    next_send  uuid NOT NULL,
    skipped    integer NOT NULL DEFAULT 0,    -- occurrences that were due while nobody looked, and a later one with them
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    PRIMARY KEY (org_id, id),
    CHECK (num_nonnulls(rrule, cron) = 1)
);

CREATE INDEX schedules_due ON schedules (next_at) WHERE status = 'active';
CREATE INDEX schedules_listed ON schedules (org_id, project_id, created_at DESC);

ALTER TABLE sends
    ADD COLUMN schedule_id uuid,              -- whose occurrence it is
    ADD COLUMN local_at timestamp,            -- due when each recipient's own clock shows this; `scheduled_for` is the first
    ADD COLUMN begins_at timestamptz NOT NULL -- since when its lifetime, and how late it may be, are counted
        GENERATED ALWAYS AS (coalesce(retried_at, greatest(created_at, scheduled_for))) STORED;

-- When a chunk's recipients have the send in their own zone: where that is after the send's `begins_at`, their time counts
-- from there. NULL: the send has one time for all.
ALTER TABLE chunks ADD COLUMN own_at timestamptz;
