-- An event's key: 48 bits of its own time in ms, then 80 bits of hash(project, eventId), as a uuid because uuids compare
-- byte by byte. Partitions are the months of that time, so (org_id, key) is unique over all of them and a retry meets itself.
CREATE TABLE events (
    org_id       uuid NOT NULL,
    key          uuid NOT NULL,
    project_id   uuid NOT NULL,
    event_type   text NOT NULL,
    module       text NOT NULL,
    person       text,                        -- userId, else anonymousId
    device_id    text,
    session_id   text,
    environment  text NOT NULL,
    occurred_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    event_id     text,                        -- the client's eventId
    properties   jsonb NOT NULL,
    PRIMARY KEY (org_id, key)
) PARTITION BY RANGE (key);

-- What an audience asks for: the events of one type in a project, since some instant.
CREATE INDEX events_by_type ON events (org_id, project_id, event_type, occurred_at);

-- Accepted events that Postgres refused, byte for byte as they stood in the log; kept 30 days.
CREATE TABLE bad_rows (
    org_id     uuid NOT NULL,
    id         uuid NOT NULL,
    project_id uuid NOT NULL,
    position   bigint NOT NULL,
    record     bytea NOT NULL,
    reason     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id)
);

-- accepted = stored + duplicate + bad, for each project, as of the storer's position.
CREATE TABLE event_counts (
    org_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    accepted   bigint NOT NULL,
    stored     bigint NOT NULL,
    duplicate  bigint NOT NULL,
    bad        bigint NOT NULL,
    PRIMARY KEY (org_id, project_id)
);
