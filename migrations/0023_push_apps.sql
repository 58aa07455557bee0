-- An app of a project may have credentials of its own; '' is the project's, which serves every app without one.
ALTER TABLE push_providers ADD COLUMN app text NOT NULL DEFAULT '';
ALTER TABLE push_providers DROP CONSTRAINT push_providers_pkey;
ALTER TABLE push_providers ADD PRIMARY KEY (org_id, project_id, provider, app);

UPDATE push_providers SET shown = shown || '{"bundleIds": []}' WHERE provider = 'fcm';
