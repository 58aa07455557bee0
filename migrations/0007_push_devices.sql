-- A device. `shard` is xxh64(project || user) >> 58, or of its own id without a user: one owner for caps and devices.
CREATE TABLE push_tokens (
    org_id        uuid NOT NULL,
    id            uuid NOT NULL,
    project_id    uuid NOT NULL,
    token         text NOT NULL,              -- APNs or FCM token; for Web Push the endpoint
    platform      text NOT NULL CHECK (platform IN ('ios', 'android', 'web')),
    subscription  jsonb,                      -- Web Push: {"p256dh", "auth"}
    user_id       text,
    owner_since   timestamptz NOT NULL,       -- when user_id last changed
    shard         smallint NOT NULL,
    locale        text,
    timezone      text,
    app_version   text,
    environment   text NOT NULL DEFAULT 'production' CHECK (environment IN ('production', 'sandbox')),
    bundle_id     text,
    is_active     boolean NOT NULL DEFAULT true,
    registered_at timestamptz NOT NULL,       -- of the latest registration: a 410 with an older time does not retire it
    retired_at    timestamptz,
    retired_reason text,
    quarantined_at timestamptz,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, token),
    CHECK ((platform = 'web') = (subscription IS NOT NULL))
);

CREATE INDEX push_tokens_by_user ON push_tokens (org_id, project_id, user_id);

-- Whether a project has any browser: each send asks, and nothing else about the platform is ever looked up (C43).
CREATE INDEX push_tokens_web ON push_tokens (org_id, project_id) WHERE platform = 'web' AND is_active;

-- What the collection of dead addresses walks over (B088).
CREATE INDEX push_tokens_retired ON push_tokens (retired_at) WHERE NOT is_active;

-- Provider credentials, sealed by the org's data key; `shown` is what the API may tell of them.
CREATE TABLE push_providers (
    org_id        uuid NOT NULL,
    project_id    uuid NOT NULL,
    provider      text NOT NULL CHECK (provider IN ('apns', 'fcm', 'vapid')),
    id            uuid NOT NULL,              -- changes with the secret: lanes and grants are keyed by it
    sealed        bytea NOT NULL,
    shown         jsonb NOT NULL,
    configured_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, project_id, provider)
);

-- The provider tokens that the whole cluster shares (APNs JWT, FCM OAuth): minted under the row's lock.
CREATE TABLE push_grants (
    org_id      uuid NOT NULL,
    provider_id uuid NOT NULL,
    sealed      bytea,
    minted_at   timestamptz,
    expires_at  timestamptz,
    PRIMARY KEY (org_id, provider_id)
);

CREATE TABLE push_settings (
    org_id          uuid PRIMARY KEY,
    quiet_start     smallint CHECK (quiet_start BETWEEN 0 AND 23),
    quiet_end       smallint CHECK (quiet_end BETWEEN 0 AND 23),
    defer           boolean NOT NULL DEFAULT true,
    cap_day         integer CHECK (cap_day >= 0),
    cap_hour        integer CHECK (cap_hour >= 0),
    default_zone    text,
    critical_bypass boolean NOT NULL DEFAULT true
);

CREATE TABLE push_templates (
    org_id     uuid NOT NULL,
    id         uuid NOT NULL,
    project_id uuid NOT NULL,
    name       text NOT NULL,
    content    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id)
);

CREATE TABLE push_ab_tests (
    org_id       uuid NOT NULL,
    id           uuid NOT NULL,
    project_id   uuid NOT NULL,
    name         text NOT NULL,
    status       text NOT NULL CHECK (status IN ('draft', 'active', 'paused', 'completed')),
    variants     jsonb NOT NULL,
    winner_key   text,
    auto_promote boolean NOT NULL DEFAULT false,
    first_sent_at timestamptz,                -- from then on the weights are fixed (C44)
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id)
);

-- Opens and clicks, one row for each recipient (or for the send, when the device only knew the send's id).
CREATE TABLE push_opens (
    org_id       uuid NOT NULL,
    send_id      uuid NOT NULL,
    recipient    uuid NOT NULL,               -- the nil uuid when unknown
    opened_at    timestamptz NOT NULL,
    clicked_at   timestamptz,
    click_action text,
    PRIMARY KEY (org_id, send_id, recipient)
);

-- Results of a lane by the minute: what the prune guard compares a wave of dead tokens with.
CREATE TABLE push_lane_health (
    org_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    platform   text NOT NULL,
    minute     timestamptz NOT NULL,
    accepted   bigint NOT NULL,
    dead       bigint NOT NULL,
    PRIMARY KEY (org_id, project_id, platform, minute)
);
