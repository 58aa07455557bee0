-- Control of a send that runs: pause, stop, retry of who failed, and how late is too late.
ALTER TABLE sends
    ADD COLUMN late_at    timestamptz,        -- from then on whoever has not left is expired as late (maxLatenessSeconds)
    ADD COLUMN stopped_at timestamptz,        -- whoever has not left by then never will
    ADD COLUMN retried_at timestamptz;        -- when those who had failed were last taken up again; its time counts from there

-- Sends that are being stopped: their chunks are due, whatever they wait for.
CREATE INDEX sends_stopping ON sends (org_id, id) WHERE stopped_at IS NOT NULL AND closed_at IS NULL;

-- What is still to be told of sends themselves on the stream LIFECYCLE; a row goes when the log has it.
CREATE TABLE send_news (
    org_id  uuid NOT NULL,
    send_id uuid NOT NULL,
    event   text NOT NULL CHECK (event IN ('send_requested', 'scheduled', 'cancelled')),
    at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, send_id, event)
);

-- Who was not sent to, by send: what is listed, and what is taken up again. They are few where things go well, so the
-- ledger pays little for it.
CREATE INDEX deliveries_not_sent ON deliveries (org_id, send_id, state, shard, seq, position)
    WHERE state IN ('rejected', 'suppressed', 'expired', 'unknown');
