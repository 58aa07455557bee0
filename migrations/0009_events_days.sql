-- What the storer left out of a frame of the log: ordinals among all events of the frame, ascending, duplicates and bad
-- rows alike. A frame that was stored whole has no row. Kept as long as the log is.
CREATE TABLE event_skips (
    lane     smallint NOT NULL,
    position bigint NOT NULL,
    ordinals integer[] NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (lane, position)
);

-- Events whose partition was dropped, by UTC day: all that an audience asks of them.
CREATE TABLE event_days (
    org_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    event_type text NOT NULL,
    person     text NOT NULL,                 -- as in events: whoever it was then
    day        date NOT NULL,
    count      integer NOT NULL,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, project_id, event_type, person, day)
);

-- How often events of a project were taken away (a person's erasure, a month's roll-up), which the log does not tell: what
-- was made of the log under another number must be made anew.
CREATE TABLE event_cuts (
    org_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    cuts       bigint NOT NULL,
    PRIMARY KEY (org_id, project_id)
);
