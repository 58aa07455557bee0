-- What frequency caps count is all that this index was ever for. Whole, it drew PostgreSQL away from the primary key
-- wherever somebody looked for one recipient of a chunk in a month that had just begun.
DROP INDEX deliveries_recent;
CREATE INDEX deliveries_recent ON deliveries (org_id, shard, at) WHERE state IN ('accepted', 'rejected', 'unknown');
