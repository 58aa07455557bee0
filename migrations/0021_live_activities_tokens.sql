-- A Live Activity (iOS) or Live Update (Android) of one person. Its id is what the ledger calls the recipient, so the ledger
-- names nobody. `shard` is xxh64(project || person) >> 58, as everywhere.
CREATE TABLE live_activities (
    org_id        uuid NOT NULL,
    id            uuid NOT NULL,
    project_id    uuid NOT NULL,
    user_id       text NOT NULL,
    activity_type text NOT NULL,
    external_id   text NOT NULL,
    platform      text NOT NULL CHECK (platform IN ('ios', 'android')),
    token         text,                       -- the activity's own; NULL until the device has told it
    token_at      timestamptz,                -- of its latest registration: a 410 with an older time is about another one
    environment   text NOT NULL CHECK (environment IN ('production', 'sandbox')),
    bundle_id     text,
    starter_id    uuid,                       -- when it was started by push: through which token,
    start_send    uuid,                       -- and by which send
    shard         smallint NOT NULL,
    status        text NOT NULL CHECK (status IN ('starting', 'active', 'ended', 'expired', 'invalidated')),
    reason        text,                       -- why it is over
    stamp         bigint NOT NULL,            -- of its latest payload: seconds since 1970, but always above the one before
    content_state jsonb,                      -- as last asked for
    told          text NOT NULL DEFAULT 'starting', -- the status that the stream LIFECYCLE knows
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,                -- when the device first told its token
    updated_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    PRIMARY KEY (org_id, id),
    CHECK (status <> 'active' OR (token IS NOT NULL AND started_at IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (status IN ('starting', 'active')))
);

-- One living activity for each of the customer's own ids, and one for each token.
CREATE UNIQUE INDEX live_activities_living ON live_activities (org_id, project_id, user_id, activity_type, external_id)
    WHERE status IN ('starting', 'active');
CREATE UNIQUE INDEX live_activities_by_token ON live_activities (org_id, token) WHERE status = 'active';

-- Also those that are over: by person, and by page.
CREATE INDEX live_activities_by_user ON live_activities (org_id, project_id, user_id, activity_type, external_id);
CREATE INDEX live_activities_listed ON live_activities (org_id, project_id, status, id DESC);

-- Whom a start was for.
CREATE INDEX live_activities_of_start ON live_activities (org_id, start_send) WHERE start_send IS NOT NULL;

-- What the jobs look for: who has lived too long, who has never begun, what nobody was told of, what can be forgotten.
CREATE INDEX live_activities_aging ON live_activities (started_at) WHERE status = 'active';
CREATE INDEX live_activities_starting ON live_activities (created_at) WHERE status = 'starting';
CREATE INDEX live_activities_untold ON live_activities (updated_at) WHERE told <> status;
CREATE INDEX live_activities_over ON live_activities (ended_at) WHERE ended_at IS NOT NULL;

-- What each update and the end say, and what a start says. Their sends only refer to it, so that an erasure finds it here.
CREATE TABLE live_activity_updates (
    org_id        uuid NOT NULL,
    activity_id   uuid NOT NULL,
    stamp         bigint NOT NULL,            -- the payload's timestamp: the order of an activity's updates
    send_id       uuid NOT NULL,
    event         text NOT NULL CHECK (event IN ('update', 'end')),
    urgent        boolean NOT NULL,           -- priority 10, which Apple counts
    content_state jsonb,
    alert         jsonb,                      -- {"title", "body"}
    stale_s       bigint,                     -- dates as Apple takes them, seconds since 1970: any that a caller may write
    dismiss_s     bigint,
    relevance     double precision,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, activity_id, stamp)
);

CREATE TABLE live_activity_starts (
    org_id        uuid NOT NULL,
    send_id       uuid NOT NULL,
    said          jsonb NOT NULL,
    PRIMARY KEY (org_id, send_id)
);

-- Push-to-start tokens (iOS 17.2 and later): one for each person, device and type of activity.
CREATE TABLE live_activity_starters (
    org_id        uuid NOT NULL,
    id            uuid NOT NULL,
    project_id    uuid NOT NULL,
    user_id       text NOT NULL,
    device_id     text NOT NULL,              -- '' where the device did not say
    activity_type text NOT NULL,
    token         text NOT NULL,
    environment   text NOT NULL CHECK (environment IN ('production', 'sandbox')),
    bundle_id     text,
    registered_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, project_id, user_id, activity_type, device_id),
    UNIQUE (org_id, token, activity_type)
);
