-- An audience is a rule, or a contact list: people who were put into it one by one.
ALTER TABLE audiences
    ADD COLUMN type text NOT NULL DEFAULT 'rules' CHECK (type IN ('rules', 'list')),
    ALTER COLUMN rules DROP NOT NULL,
    ADD CHECK ((type = 'rules') = (rules IS NOT NULL));

-- Who is in a contact list. `shard` is xxh64(project || external_id) >> 58, so that a list is read as a send is planned:
-- shard by shard. Only people who have a profile are put in, so no list is longer than its project has people.
CREATE TABLE audience_contacts (
    org_id      uuid NOT NULL,
    audience_id uuid NOT NULL,
    shard       smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    external_id text NOT NULL,                -- as it was when it was added: takeovers are followed when it is read
    project_id  uuid NOT NULL,
    added_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, audience_id, shard, external_id)
);

CREATE INDEX audience_contacts_of_person ON audience_contacts (org_id, project_id, external_id);

-- How the last evaluation of an audience went: what it came to, or why it came to nothing. Nothing of membership.
CREATE TABLE audience_evaluations (
    org_id      uuid NOT NULL,
    audience_id uuid NOT NULL,
    at          timestamptz,                  -- of the last one that came to an end
    size        bigint,
    failed_at   timestamptz,                  -- set while the last one failed
    error       text,
    PRIMARY KEY (org_id, audience_id)
);
