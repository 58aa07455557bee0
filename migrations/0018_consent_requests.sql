-- Whoever asks to be forgotten (B069, C71). A person is named by a keyed hash alone; the names themselves are here, sealed,
-- only while rooms are at work. One row for each person: asking again begins it again.
CREATE TABLE deletion_requests (
    org_id       uuid NOT NULL,
    id           uuid NOT NULL,
    project_id   uuid NOT NULL,
    hash         bytea NOT NULL,
    status       text NOT NULL CHECK (status IN ('pending', 'running', 'completed')),
    run          integer NOT NULL DEFAULT 1,      -- how often it was begun; guards what an older run still writes
    sealed       bytea,                           -- every name of the person; gone when the request is completed
    position     bigint,                          -- of the cut in the log: what stands behind it is somebody new
    cut_at       timestamptz,
    again        boolean NOT NULL DEFAULT false,  -- asked for while it was running: it begins again at its end
    done         text[] NOT NULL DEFAULT '{}',    -- rooms that have erased since the cut
    deleted      jsonb NOT NULL DEFAULT '{}',     -- rows by room, of all runs
    requested_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    due_at       timestamptz NOT NULL,            -- when the job may take it up: a lease while it works, a pause after a failure
    tries        integer NOT NULL DEFAULT 0,      -- since the last one that came to an end
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, project_id, hash),
    CHECK ((status = 'completed') = (sealed IS NULL))
);

CREATE INDEX deletion_requests_due ON deletion_requests (due_at) WHERE status <> 'completed';

-- Every name that was erased, by its hash: whoever reads the log again leaves out what the person said before the cut. Kept
-- a little longer than the log keeps anything.
CREATE TABLE erased_names (
    org_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    hash       bytea NOT NULL,
    position   bigint NOT NULL,
    cut_at     timestamptz NOT NULL,
    PRIMARY KEY (org_id, project_id, hash)
);

-- Each reader asks with each batch whether any cut lies ahead of it; as a rule none does.
CREATE INDEX erased_names_ahead ON erased_names (position);
