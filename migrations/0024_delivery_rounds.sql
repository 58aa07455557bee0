-- With which attempt the tries of a chunk's recipients began: 1, or the first after a retry, which has all tries anew.
ALTER TABLE chunks ADD COLUMN first_attempt smallint NOT NULL DEFAULT 1;
