-- What every floor stands on: leases with epochs, log positions, idempotency keys.

-- A lease is held until `lease_until` by Postgres' clock; taking it raises the epoch, which guards every write made under it.
CREATE TABLE leases (
    name        text PRIMARY KEY,
    holder      text NOT NULL,
    epoch       bigint NOT NULL,
    lease_until timestamptz NOT NULL
);

-- How far a reader of the log has come; written in the transaction that stores what it read.
CREATE TABLE log_positions (
    consumer text NOT NULL,
    lane     smallint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (consumer, lane)
);

-- A request that may be repeated: what it asked (fingerprint) and what it was answered.
CREATE TABLE idempotency_keys (
    org_id      uuid NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    status      smallint,                -- NULL while in flight
    response    bytea,
    locked_until timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, key)
);

-- Envelope encryption: one data key for each org, wrapped by the master key of `kek_version`.
CREATE TABLE data_keys (
    org_id      uuid NOT NULL,
    version     smallint NOT NULL,
    kek_version smallint NOT NULL,
    wrapped     bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, version)
);
