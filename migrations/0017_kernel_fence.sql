-- The restore fence (kernel/fence.py): which cluster this database belongs to, and how far its dispatch has come. The
-- same stands in a bucket of JetStream. One row.
CREATE TABLE cluster (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    id    uuid NOT NULL,
    epoch bigint NOT NULL,
    beat  bigint NOT NULL,                -- raised while something is planned or sent
    nonce uuid NOT NULL,                  -- of the beat: two databases that went on from one copy differ in it
    send  uuid NOT NULL,                  -- the highest id of a send that was taken up
    told  boolean NOT NULL                -- whether the bucket has been made from it
);

-- A database that has sends already is not a new one: without its bucket it is fenced until an operator has looked.
INSERT INTO cluster (id, epoch, beat, nonce, send, told)
SELECT gen_random_uuid(), 1, 0, gen_random_uuid(), id, true FROM sends ORDER BY id DESC LIMIT 1;
