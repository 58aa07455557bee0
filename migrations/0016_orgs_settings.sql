-- What an org has chosen for all of its projects, the AI key it has brought, and what its AI steps have used (UTC days).
CREATE TABLE org_settings (
    org_id                          uuid PRIMARY KEY REFERENCES orgs,
    ai_lifecycle_classifier_enabled boolean NOT NULL DEFAULT false,
    ai_key                          bytea                            -- sealed by the vault; NULL: none was brought
);

CREATE TABLE ai_usage_days (
    org_id uuid NOT NULL,
    day    date NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (org_id, day)
);

-- A secret key that acts in a further org (C98). The row is that org's: it names its own project, and it may take the
-- row away. `home_org_id` is the org that the key belongs to.
CREATE TABLE key_grants (
    org_id      uuid NOT NULL REFERENCES orgs,
    key_id      uuid NOT NULL,
    home_org_id uuid NOT NULL,
    project_id  uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, key_id),
    CHECK (org_id <> home_org_id),
    FOREIGN KEY (org_id, project_id) REFERENCES projects (org_id, id),
    FOREIGN KEY (home_org_id, key_id) REFERENCES api_keys (org_id, id)
);

CREATE INDEX key_grants_of_key ON key_grants (home_org_id, key_id);

-- The audit log is a chain for each org: an entry's hash is SHA-256 over the hash before it (32 zero bytes before the
-- first) and its own content, so none can be changed, taken out or put in between without every later hash giving it
-- away. The head is locked by whoever writes: two writers take turns, and there is one chain. It is kept by the database
-- itself, so that whatever writes an entry continues the chain.
CREATE TABLE audit_heads (
    org_id uuid PRIMARY KEY,
    seq    bigint NOT NULL,
    hash   bytea NOT NULL
);

-- With what each org's people are named in the log (HMAC), sealed by the vault.
CREATE TABLE audit_keys (
    org_id uuid PRIMARY KEY,
    sealed bytea NOT NULL
);

ALTER TABLE audit_log
    ADD COLUMN seq          bigint,
    ADD COLUMN hash         bytea,
    ADD COLUMN payload_size integer;       -- bytes of the request's body; NULL where no request asked for it

-- Texts alone, so that a verifier in any language says the same: orgs/audit.py has its twin.
CREATE FUNCTION audit_hash(previous bytea, entry audit_log) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(previous || convert_to(jsonb_build_array(
        entry.org_id::text, entry.seq::text, entry.id::text, (extract(epoch FROM entry.at) * 1000000)::bigint::text,
        entry.actor, entry.action, entry.resource, coalesce(entry.payload_size::text, ''), entry.details::text
    )::text, 'UTF8'))
$$;

CREATE FUNCTION audit_continue() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    previous bytea;
BEGIN
    INSERT INTO audit_heads AS head (org_id, seq, hash) VALUES (NEW.org_id, 1, decode(repeat('00', 32), 'hex'))
        ON CONFLICT (org_id) DO UPDATE SET seq = head.seq + 1
        RETURNING seq, hash INTO NEW.seq, previous;
    -- Read under the lock, so that the order of the chain is the order of the times.
    NEW.at := clock_timestamp();
    NEW.hash := audit_hash(previous, NEW);
    UPDATE audit_heads SET hash = NEW.hash WHERE org_id = NEW.org_id;
    RETURN NEW;
END
$$;

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

-- What was written before there was a chain begins it.
DO $$
DECLARE
    entry audit_log;
    previous bytea;
BEGIN
    FOR entry IN SELECT * FROM audit_log ORDER BY org_id, id LOOP
        INSERT INTO audit_heads AS head (org_id, seq, hash) VALUES (entry.org_id, 1, decode(repeat('00', 32), 'hex'))
            ON CONFLICT (org_id) DO UPDATE SET seq = head.seq + 1
            RETURNING seq, hash INTO entry.seq, previous;
        entry.hash := audit_hash(previous, entry);
        UPDATE audit_log SET seq = entry.seq, hash = entry.hash WHERE org_id = entry.org_id AND id = entry.id;
        UPDATE audit_heads SET hash = entry.hash WHERE org_id = entry.org_id;
    END LOOP;
END
$$;

ALTER TABLE audit_log
    ALTER COLUMN seq SET NOT NULL,
    ALTER COLUMN hash SET NOT NULL;

CREATE UNIQUE INDEX audit_log_chain ON audit_log (org_id, seq);
CREATE INDEX audit_log_resource ON audit_log (org_id, resource, seq);
CREATE INDEX audit_log_actor ON audit_log (org_id, actor, seq);

CREATE TRIGGER audit_continue BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_continue();
CREATE TRIGGER audit_refuse BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_refuse_truncate BEFORE TRUNCATE ON audit_log EXECUTE FUNCTION audit_refuse();
