-- Receipts of devices, one row for each recipient (the nil uuid when the device only knew the send): C93.
CREATE TABLE push_receipts (
    org_id       uuid NOT NULL,
    send_id      uuid NOT NULL,
    recipient    uuid NOT NULL,
    delivered_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, send_id, recipient)
);

-- How many recipients of a send have one: a broadcast has as many as devices, so they are not counted on each reading. A row
-- without any says that only nameless ones came.
CREATE TABLE push_receipt_counts (
    org_id     uuid NOT NULL,
    send_id    uuid NOT NULL,
    project_id uuid NOT NULL,
    n          bigint NOT NULL,
    PRIMARY KEY (org_id, send_id)
);

CREATE INDEX push_receipt_counts_of_project ON push_receipt_counts (org_id, project_id);
