-- A saved rule. A deleted audience leaves a tombstone: what still refers to it resolves to nobody (B079, C47).
CREATE TABLE audiences (
    org_id      uuid NOT NULL,
    id          uuid NOT NULL,
    project_id  uuid NOT NULL,
    name        text NOT NULL,
    description text,
    rules       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    PRIMARY KEY (org_id, id)
);
