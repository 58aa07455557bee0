CREATE TABLE orgs (
    org_id     uuid PRIMARY KEY,
    name       text NOT NULL,
    plan       text NOT NULL CHECK (plan IN ('free', 'starter', 'growth', 'business')),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE projects (
    org_id     uuid NOT NULL REFERENCES orgs,
    id         uuid NOT NULL,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id)
);

-- Keys are found by their public 8-character id and proved by the SHA-256 of the whole key; the key itself is never kept.
CREATE TABLE api_keys (
    org_id          uuid NOT NULL REFERENCES orgs,
    id              uuid NOT NULL,
    prefix          text NOT NULL UNIQUE,      -- e.g. sk_prod_Ab3dE9xY
    hash            bytea NOT NULL,
    name            text,
    kind            text NOT NULL CHECK (kind IN ('pk', 'sk')),
    environment     text NOT NULL,
    project_id      uuid NOT NULL,
    scopes          text[] NOT NULL,
    role            text CHECK (role IN ('VIEWER', 'EDITOR', 'ADMIN')),
    rate_per_second integer NOT NULL,
    rate_burst      integer NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    PRIMARY KEY (org_id, id),
    FOREIGN KEY (org_id, project_id) REFERENCES projects (org_id, id)
);

-- What was done by whom; append-only.
CREATE TABLE audit_log (
    org_id      uuid NOT NULL,
    id          uuid NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL,                -- the key's prefix, or 'system'
    action      text NOT NULL,                -- e.g. audience.deleted
    resource    text NOT NULL,
    details     jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (org_id, id)
);

-- Events counted against the plan's monthly quota (B045, C99); written by the storer.
CREATE TABLE usage_months (
    org_id uuid NOT NULL,
    month  date NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (org_id, month)
);
