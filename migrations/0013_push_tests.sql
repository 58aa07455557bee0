-- A test that completed itself (C45), and when the job that completes tests last looked at one: whoever has waited
-- longest is next.
ALTER TABLE push_ab_tests
    ADD COLUMN promoted_at timestamptz,
    ADD COLUMN examined_at timestamptz NOT NULL DEFAULT '-infinity';

-- What that job walks over: mostly nothing. A winner that somebody has named is nobody else's to choose.
CREATE INDEX push_ab_tests_undecided ON push_ab_tests (examined_at)
    WHERE auto_promote AND status = 'active' AND winner_key IS NULL AND first_sent_at IS NOT NULL;

-- The sends of a test, among all that a project ever sent.
CREATE INDEX sends_of_test ON sends (org_id, (content ->> 'abTestId')) WHERE content ->> 'abTestId' IS NOT NULL;
