-- A person of a project. One writer: the consumer that reads every change from the log.
CREATE TABLE profiles (
    org_id       uuid NOT NULL,
    project_id   uuid NOT NULL,
    external_id  text NOT NULL,
    id           uuid NOT NULL,               -- UUIDv5(project, external_id)
    email        text,
    traits       jsonb NOT NULL DEFAULT '{}',
    locale       text,
    timezone     text,
    lifecycle    text CHECK (lifecycle IN ('new', 'active', 'at_risk', 'churned')),
    merged_into  text,                        -- the external_id that took this anonymous person over
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,        -- written at most once a minute
    PRIMARY KEY (org_id, project_id, external_id)
);

CREATE UNIQUE INDEX profiles_by_id ON profiles (org_id, id);
CREATE INDEX profiles_by_email ON profiles (org_id, project_id, email) WHERE email IS NOT NULL;
CREATE INDEX profiles_merged ON profiles (org_id, project_id, merged_into) WHERE merged_into IS NOT NULL;
