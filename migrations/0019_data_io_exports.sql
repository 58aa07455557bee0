-- What somebody may download (B068). Nothing of what it holds is kept: it is read from the live tables at the download.
-- One row for each question, so that asking again within its time gives the same one.
CREATE TABLE exports (
    org_id     uuid NOT NULL,
    id         uuid NOT NULL,
    project_id uuid NOT NULL,
    module     text NOT NULL,
    profile_id uuid NOT NULL,                 -- the nil uuid: everybody
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, project_id, module, profile_id)
);

CREATE INDEX exports_expired ON exports (expires_at);
