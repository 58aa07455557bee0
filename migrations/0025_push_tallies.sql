-- What was last counted of a test, as of when, and how long it took: what took long is shown again for a while.
ALTER TABLE push_ab_tests
    ADD COLUMN tallies jsonb,
    ADD COLUMN tallied_at timestamptz,
    ADD COLUMN tallied_s double precision;
