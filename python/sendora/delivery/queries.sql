-- writes: sends, send_news, schedules, plan_positions, chunks, deliveries, send_counts, shard_leases, dispatchers
-- reads: log_positions
--
-- Every statement about a send names its org first. Times that decide something are PostgreSQL's own now().

-- ============================================================ sends

-- name: insert_send
-- A time that has passed is now. The lifetime counts from when the send is due, and so does how late it may be. An
-- occurrence was asked for before it was due, however late its row is made, and its id says which one it is: whoever comes
-- second makes nothing. What is to be told of it is committed with it.
WITH asked AS (
    SELECT least(now(), CASE WHEN $15::uuid IS NOT NULL THEN $11::timestamptz END) AS at
), sent AS (
    INSERT INTO sends (org_id, id, project_id, channel, class, delivery, status, target, content, log_position,
                       scheduled_for, created_at, expires_at, token_count, late_at, local_at, schedule_id)
    SELECT $1, $2, $3, $4, $5, $6, CASE WHEN $11 > now() THEN 'scheduled' ELSE 'queued' END, $7, $8, $9,
           $11, at, greatest($11, at) + make_interval(secs => $10::double precision), $12,
           greatest($11, at) + make_interval(secs => $13::double precision), $14, $15
      FROM asked
        ON CONFLICT (org_id, id) DO NOTHING
    RETURNING *
), news AS (
    INSERT INTO send_news (org_id, send_id, event)
    SELECT org_id, id, n.event FROM sent CROSS JOIN unnest(ARRAY['send_requested', 'scheduled']) AS n(event)
     WHERE n.event <> 'scheduled' OR status = 'scheduled'
)
SELECT * FROM sent;

-- name: find_send
SELECT * FROM sends WHERE org_id = $1 AND id = $2;

-- name: list_sends
SELECT * FROM sends
 WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND ($4::text[] IS NULL OR status = ANY($4))
 ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6;

-- name: count_sends
SELECT count(*) FROM sends
 WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND ($4::text[] IS NULL OR status = ANY($4));

-- name: step_send
-- Compare and set: the only way a request changes a status. No row: the send is gone or stands elsewhere, or it is being
-- stopped and this is not its end.
UPDATE sends SET status = $3, closed_at = CASE WHEN $5 THEN now() ELSE closed_at END
 WHERE org_id = $1 AND id = $2 AND status = ANY($4::text[]) AND ($5 OR stopped_at IS NULL)
RETURNING *;

-- name: cancel_send
-- The same, and what is to be told of it. $5: why, where nobody asked for it.
WITH cancelled AS (
    UPDATE sends SET status = $3, closed_at = now(), error = $5
     WHERE org_id = $1 AND id = $2 AND status = ANY($4::text[])
    RETURNING *
), news AS (
    INSERT INTO send_news (org_id, send_id, event) SELECT org_id, id, 'cancelled' FROM cancelled
)
SELECT * FROM cancelled;

-- name: claim_scheduled
-- The occurrence is the row itself, so it happens once whoever claims it (F-S1, F-S2). The audience is the one of the due
-- time, therefore the log position is taken anew. An occurrence waits until its schedule has gone on: only then is it known
-- whether a later one is due as well.
UPDATE sends SET status = $1, log_position = greatest(log_position, $3)
 WHERE (org_id, id) IN (
     SELECT s.org_id, s.id FROM sends s WHERE s.status = 'scheduled' AND s.scheduled_for <= now()
        AND NOT EXISTS (SELECT FROM schedules c WHERE c.org_id = s.org_id AND c.id = s.schedule_id AND c.next_send = s.id
                           AND c.status = 'active' OFFSET 0)
      ORDER BY s.scheduled_for LIMIT $2 FOR UPDATE OF s SKIP LOCKED)
   AND status = 'scheduled'
RETURNING org_id, id;

-- name: next_scheduled_s
-- A schedule goes on at its next time also when that occurrence was cancelled.
SELECT extract(epoch FROM least((SELECT min(scheduled_for) FROM sends WHERE status = 'scheduled'),
                                (SELECT min(next_at) FROM schedules WHERE status = 'active')) - now())::double precision;

-- ============================================================ schedules

-- name: insert_schedule
INSERT INTO schedules (org_id, id, project_id, channel, status, asked, starts_at, zone, rrule, cron, next_local, next_at,
                       next_send)
VALUES ($1, $2, $3, $4, 'active', $5, $6, $7, $8, $9, $10, $11, $12)
RETURNING *;

-- name: find_schedule
SELECT * FROM schedules WHERE org_id = $1 AND id = $2 AND project_id = $3 AND channel = $4;

-- name: list_schedules
SELECT * FROM schedules WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND ($4::text IS NULL OR status = $4)
 ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6;

-- name: count_schedules
SELECT count(*) FROM schedules WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND ($4::text IS NULL OR status = $4);

-- name: due_schedules
SELECT *, now() AS now FROM schedules WHERE status = 'active' AND next_at <= now()
 ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: go_on
UPDATE schedules SET next_local = $3, next_at = $4, next_send = $5, skipped = skipped + $6 WHERE org_id = $1 AND id = $2;

-- name: end_schedule
UPDATE schedules SET status = $3, ended_at = now(), skipped = skipped + $4
 WHERE org_id = $1 AND id = $2 AND status = 'active'
RETURNING *;

-- ============================================================ plan

-- name: claim_plan
-- One send at a time, transactional ones first, then of the tenant of which the fewest are being planned: who asks for many
-- broadcasts at once holds up nobody else's. Whoever held it longer than its lease is taken for dead.
WITH busy AS (
    SELECT org_id, count(*) AS n FROM sends
     WHERE planned_at IS NULL AND status IN ('queued', 'sending', 'paused') AND plan_until >= now() GROUP BY org_id
)
UPDATE sends SET plan_epoch = plan_epoch + 1, plan_claims = plan_claims + 1,
                 plan_until = now() + make_interval(secs => $1::double precision)
 WHERE (org_id, id) = (
     SELECT s.org_id, s.id FROM sends s LEFT JOIN busy ON busy.org_id = s.org_id
      WHERE s.planned_at IS NULL AND s.status IN ('queued', 'sending', 'paused') AND s.plan_until < now()
        AND s.class = ANY($2::text[])
      ORDER BY s.class = 'bulk', coalesce(busy.n, 0), s.created_at LIMIT 1 FOR UPDATE OF s SKIP LOCKED)
RETURNING *;

-- name: keep_plan
-- Also the first statement of a round's transaction: it locks the row, and gives nothing when the send is not ours any
-- more or not wanted any more.
UPDATE sends SET plan_until = now() + make_interval(secs => $4::double precision)
 WHERE org_id = $1 AND id = $2 AND plan_epoch = $3 AND status IN ('queued', 'sending', 'paused') AND planned_at IS NULL
RETURNING plan_epoch;

-- name: postpone_plan
-- Something else was away: this take does not count against the send.
UPDATE sends SET plan_until = now() + make_interval(secs => $4::double precision), plan_claims = greatest(plan_claims - 1, 0)
 WHERE org_id = $1 AND id = $2 AND plan_epoch = $3;

-- name: stored_position
-- How far both stores have come, in lanes that were ever read; NULL when one of them has read nothing yet.
SELECT CASE WHEN count(DISTINCT consumer) = cardinality($1::text[]) THEN min(position) END
  FROM log_positions WHERE consumer = ANY($1::text[]);

-- name: make_targets
CREATE TEMPORARY TABLE plan_targets (
    shard     smallint NOT NULL,
    recipient uuid NOT NULL,
    zone      text,
    PRIMARY KEY (shard, recipient)
);

-- name: zones_of_targets
SELECT DISTINCT zone FROM plan_targets WHERE zone IS NOT NULL;

-- name: clear_targets
TRUNCATE plan_targets;

-- name: drop_targets
DROP TABLE IF EXISTS pg_temp.plan_targets;

-- name: plan_round
-- The next chunks of every shard, cut above the position that the last round left; at most $3 chunks of $4 a shard, or
-- more and smaller ones where recipients are due at different times ($6, $7: when it is due in a zone).
WITH shards AS (
    SELECT s.shard::smallint AS shard, p.position, coalesce(p.seq, 0) AS seq
      FROM generate_series(0, 63) AS s(shard)
      LEFT JOIN plan_positions p ON p.org_id = $1 AND p.send_id = $2 AND p.shard = s.shard
), numbered AS (
    SELECT s.shard, s.seq, z.own_at, t.recipient,
           row_number() OVER (PARTITION BY s.shard, z.own_at ORDER BY t.recipient) - 1 AS n
      FROM shards s CROSS JOIN LATERAL (
          SELECT recipient, zone FROM plan_targets t
           WHERE t.shard = s.shard AND t.recipient > coalesce(s.position, '00000000-0000-0000-0000-000000000000')
           ORDER BY recipient LIMIT $3::integer * $4::integer) AS t
      LEFT JOIN unnest($6::text[], $7::timestamptz[]) AS z(zone, own_at) ON z.zone = t.zone
), cut AS (
    SELECT shard, seq, own_at, array_agg(recipient ORDER BY recipient) AS recipients
      FROM numbered GROUP BY shard, seq, own_at, n / $4::integer
)
INSERT INTO chunks (org_id, send_id, shard, seq, class, planned, attempt, recipients, due_at, own_at)
SELECT $1, $2, shard, seq + (row_number() OVER (PARTITION BY shard ORDER BY recipients[1]))::integer - 1, $5, true, 1,
       recipients, greatest(own_at, now()), own_at
  FROM cut
RETURNING shard, seq, recipients[size] AS last, size;

-- name: lock_positions
-- In the order that flushes lock them too, so that the two never wait for each other in a circle.
SELECT shard FROM plan_positions WHERE org_id = $1 AND send_id = $2 ORDER BY shard FOR UPDATE;

-- name: set_positions
INSERT INTO plan_positions (org_id, send_id, shard, position, seq)
SELECT $1, $2, k.shard, k.position, k.seq
  FROM unnest($3::smallint[], $4::uuid[], $5::integer[]) AS k(shard, position, seq) ORDER BY k.shard
    ON CONFLICT (org_id, send_id, shard) DO UPDATE SET position = excluded.position, seq = excluded.seq;

-- name: end_plan
UPDATE sends SET planned_at = now(), unreachable = $4, audience_as_of = $5, audience_complete = $6, error = $7,
                 target = coalesce($8, target),
                 token_count = (SELECT coalesce(sum(size), 0) FROM chunks WHERE org_id = $1 AND send_id = $2 AND planned)
 WHERE org_id = $1 AND id = $2 AND plan_epoch = $3 AND planned_at IS NULL
RETURNING id;

-- ============================================================ shards

-- name: heartbeat
INSERT INTO dispatchers (holder, seen_at) VALUES ($1, now())
    ON CONFLICT (holder) DO UPDATE SET seen_at = excluded.seen_at
RETURNING xmax = 0 AS fresh;

-- name: alive
-- Position and number of this worker among those alive, by name, so that everybody computes the same shares.
SELECT count(*) AS workers, count(*) FILTER (WHERE holder < $1) AS rank
  FROM dispatchers WHERE seen_at > now() - make_interval(secs => $2::double precision);

-- name: leave
DELETE FROM dispatchers WHERE holder = $1;

-- name: forget_dispatchers
DELETE FROM dispatchers WHERE seen_at < now() - interval '1 hour';

-- name: renew_shards
-- Locked in order first: a flush holds the same rows, in the same order.
WITH mine AS (
    SELECT shard FROM shard_leases
      JOIN unnest($2::smallint[], $3::bigint[]) AS k(shard, epoch) USING (shard, epoch)
     WHERE holder = $1 ORDER BY shard FOR NO KEY UPDATE OF shard_leases)
UPDATE shard_leases l SET lease_until = now() + make_interval(secs => $4::double precision)
  FROM mine WHERE l.shard = mine.shard
RETURNING l.shard;

-- name: take_shards
-- What nobody holds, what was held by somebody who fell silent, or what we had given up ourselves. The epoch rises, and
-- with it every write of the former holder becomes void.
UPDATE shard_leases l SET holder = $1, epoch = l.epoch + 1, lease_until = now() + make_interval(secs => $4::double precision)
  FROM (SELECT shard FROM shard_leases WHERE shard = ANY($2::smallint[]) AND (lease_until < now() OR holder = $1)
         ORDER BY shard LIMIT $3 FOR UPDATE SKIP LOCKED) AS free
 WHERE l.shard = free.shard
RETURNING l.shard, l.epoch;

-- name: release_shards
UPDATE shard_leases l SET holder = NULL, lease_until = '-infinity'
  FROM unnest($2::smallint[], $3::bigint[]) AS k(shard, epoch)
 WHERE l.shard = k.shard AND l.epoch = k.epoch AND l.holder = $1;

-- name: hold_shards
-- First statement of every write under leases: those that are still ours, kept until the commit (F-D4).
SELECT shard FROM shard_leases
  JOIN unnest($2::smallint[], $3::bigint[]) AS k(shard, epoch) USING (shard, epoch)
 WHERE holder = $1 ORDER BY shard FOR SHARE OF shard_leases;

-- ============================================================ queue

-- name: due_chunks
-- At most $2 of each tenant and class, so that one tenant's queue does not hide another's. Paused sends keep their chunks,
-- and nobody sees them; what a stopped send has waiting for a later time is due now.
WITH ready AS (
    SELECT c.org_id, c.send_id, c.shard, c.seq, c.class, c.size, c.due_at, c.claims
      FROM chunks c JOIN sends s ON s.org_id = c.org_id AND s.id = c.send_id
     WHERE c.shard = ANY($1::smallint[]) AND c.closed_at IS NULL AND c.due_at <= now() AND s.status = 'sending'
    UNION ALL
    SELECT c.org_id, c.send_id, c.shard, c.seq, c.class, c.size, now(), c.claims
      FROM sends s
     CROSS JOIN LATERAL (
         SELECT org_id, send_id, shard, seq, class, size, claims FROM chunks
          WHERE org_id = s.org_id AND send_id = s.id AND closed_at IS NULL AND due_at > now()
         OFFSET 0) AS c
     WHERE s.stopped_at IS NOT NULL AND s.closed_at IS NULL AND c.shard = ANY($1::smallint[])
), due AS (
    SELECT *, row_number() OVER (PARTITION BY org_id, class ORDER BY due_at, seq, shard) AS turn FROM ready
)
SELECT org_id, send_id, shard, seq, class, size, claims FROM due WHERE turn <= $2 ORDER BY class = 'bulk', due_at, turn;

-- name: claim_chunks
-- The number of claims rises before anybody looks into a chunk: one that kills its workers is parked (F-M6). The send may
-- have been paused or stopped since the queue was read. Who has it in their own zone is late by their own time
-- (`Send.as_due`).
UPDATE chunks c SET claims = c.claims + 1
  FROM unnest($2::uuid[], $3::uuid[], $4::smallint[], $5::integer[], $6::bigint[]) AS k(org_id, send_id, shard, seq, epoch),
       shard_leases l, sends s
 WHERE c.org_id = k.org_id AND c.send_id = k.send_id AND c.shard = k.shard AND c.seq = k.seq AND c.closed_at IS NULL
   AND l.shard = k.shard AND l.epoch = k.epoch AND l.holder = $1
   AND s.org_id = k.org_id AND s.id = k.send_id AND s.status = 'sending'
RETURNING c.org_id, c.send_id, c.shard, c.seq, c.class, c.attempt, c.first_attempt, c.repeated, c.size, c.started, c.due_at,
          c.own_at, c.claims, s.retried_at, s.stopped_at IS NOT NULL AS stopped,
          coalesce(s.late_at + greatest(c.own_at - s.begins_at, interval '0') <= now(), false) AS late;

-- name: recorded
-- Which positions of a chunk have an outcome already.
SELECT position FROM deliveries WHERE org_id = $1 AND send_id = $2 AND shard = $3 AND seq = $4;

-- name: end_chunk
-- What was not sent ends as $5; what may have been sent is unknown. The people behind are not looked up: nobody is sent to,
-- and where a chunk is parked reading it is what failed.
INSERT INTO deliveries (org_id, send_id, shard, seq, position, recipient, state, reason, attempt, repeated, at)
SELECT c.org_id, c.send_id, c.shard, c.seq, r.n - 1, r.recipient,
       CASE WHEN c.repeated OR r.n <= c.started THEN 'unknown' ELSE $5 END,
       CASE WHEN r.n <= c.started THEN 'worker_lost' ELSE $6 END,
       c.attempt, false, now()
  FROM chunks c CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r(recipient, n)
 WHERE c.org_id = $1 AND c.send_id = $2 AND c.shard = $3 AND c.seq = $4 AND c.closed_at IS NULL
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.org_id = c.org_id AND d.send_id = c.send_id AND d.shard = c.shard
                      AND d.seq = c.seq AND d.position = r.n - 1);

-- name: close_chunk
UPDATE chunks SET closed_at = now() WHERE org_id = $1 AND send_id = $2 AND shard = $3 AND seq = $4 AND closed_at IS NULL;

-- name: caps
-- Whom this shard's people were sent to in the last 24 hours (B111): what was handed to a provider, or may have been.
-- A token without a user counts for itself (B112).
SELECT coalesce(user_id, recipient::text), send_id, at FROM deliveries
 WHERE org_id = $1::uuid AND shard = $2::smallint AND at > now() - interval '24 hours'
   AND state IN ('accepted', 'rejected', 'unknown');

-- ============================================================ control

-- name: stop_send
-- Once: the instant stays. It runs from now on, whatever it did, until everybody in it has an outcome.
UPDATE sends SET status = $3, stopped_at = coalesce(stopped_at, now())
 WHERE org_id = $1 AND id = $2 AND status = ANY($4::text[])
RETURNING *;

-- name: open_shards
SELECT DISTINCT shard FROM chunks WHERE org_id = $1 AND send_id = $2 AND closed_at IS NULL ORDER BY shard;

-- name: planned_shards
-- With the number that the next chunk of each will have.
SELECT shard, seq FROM plan_positions WHERE org_id = $1 AND send_id = $2 ORDER BY shard;

-- name: lock_send
SELECT * FROM sends WHERE org_id = $1 AND id = $2 FOR UPDATE;

-- name: take_back
-- Who has failed in this shard is not at an end any more. Only where that end was told and counted: an accounted chunk is
-- touched by nobody else. $5 names the reasons that are meant; without it those of $6, and whatever expired or is unknown.
-- Only below chunk $8: who was taken up a moment ago may have failed again. Attempts are counted in a smallint.
WITH failed AS (
    SELECT d.seq, d.position, d.state FROM deliveries d
     WHERE d.org_id = $1 AND d.send_id = $2 AND d.shard = $3 AND d.seq < $8
       AND d.state IN ('rejected', 'expired', 'unknown') AND d.state = ANY($4::text[]) AND d.attempt < 30000
       AND CASE WHEN $5::text[] IS NULL THEN d.state <> 'rejected' OR d.reason = ANY($6::text[])
                ELSE d.reason = ANY($5) END
       AND EXISTS (SELECT FROM chunks c WHERE c.org_id = d.org_id AND c.send_id = d.send_id AND c.shard = d.shard
                      AND c.seq = d.seq AND c.accounted)
     ORDER BY d.seq, d.position LIMIT $7 FOR UPDATE OF d
)
UPDATE deliveries d SET state = 'deferred'
  FROM failed f
 WHERE d.org_id = $1 AND d.send_id = $2 AND d.shard = $3 AND d.seq = f.seq AND d.position = f.position
RETURNING d.recipient, d.attempt, d.repeated, f.state, coalesce(d.reason, '') AS reason, coalesce(d.variant, '') AS variant,
          (d.at AT TIME ZONE 'UTC')::date AS day, now() AS due_at;

-- name: lock_counts
-- In the order of the key, as the accountants take them.
SELECT 1 FROM send_counts WHERE org_id = $1 AND send_id = $2 ORDER BY day, state, reason, variant FOR UPDATE;

-- name: uncount_outcomes
UPDATE send_counts c SET n = c.n - k.n, repeated = c.repeated - k.repeated
  FROM unnest($3::date[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
    AS k(day, state, reason, variant, n, repeated)
 WHERE c.org_id = $1 AND c.send_id = $2 AND c.day = k.day AND c.state = k.state AND c.reason = k.reason
   AND c.variant = k.variant;

-- name: drop_counts
DELETE FROM send_counts WHERE org_id = $1 AND send_id = $2 AND n = 0;

-- name: reopen_send
-- The time that it has begins anew, once for each retry and each time that it was closed: what it had, counted from now.
WITH renewed AS (
    SELECT CASE WHEN $5 OR closed_at IS NOT NULL THEN now() - begins_at ELSE interval '0' END AS later
      FROM sends WHERE org_id = $1 AND id = $2
)
UPDATE sends SET status = CASE WHEN status = ANY($4::text[]) THEN $3 ELSE status END, closed_at = NULL, stopped_at = NULL,
                 retried_at = CASE WHEN later > interval '0' THEN now() ELSE retried_at END,
                 expires_at = expires_at + later, late_at = late_at + later
  FROM renewed
 WHERE org_id = $1 AND id = $2
RETURNING sends.*;

-- name: sends_at_rest
-- Of these sends, those that nobody may leave for: paused, stopped, or gone.
SELECT k.org_id, k.send_id FROM unnest($1::uuid[], $2::uuid[]) AS k(org_id, send_id)
  LEFT JOIN LATERAL (
      SELECT status, stopped_at FROM sends WHERE org_id = k.org_id AND id = k.send_id OFFSET 0) AS s ON true
 WHERE s.status IS DISTINCT FROM 'sending' OR s.stopped_at IS NOT NULL;

-- name: has_outcome
-- After a commit whose answer was lost: its rows are there, or none of it is.
SELECT EXISTS (SELECT FROM deliveries WHERE org_id = $1 AND send_id = $2 AND shard = $3 AND seq = $4 AND position = $5);

-- name: take_numbers
-- Numbers for follow-up chunks; $4 is how many each shard of each send needs.
WITH wanted AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::integer[]) AS k(org_id, send_id, shard, n)
), locked AS (
    SELECT p.org_id, p.send_id, p.shard FROM plan_positions p JOIN wanted USING (org_id, send_id, shard)
     ORDER BY p.org_id, p.send_id, p.shard FOR UPDATE OF p
)
UPDATE plan_positions p SET seq = p.seq + w.n
  FROM wanted w JOIN locked USING (org_id, send_id, shard)
 WHERE p.org_id = w.org_id AND p.send_id = w.send_id AND p.shard = w.shard
RETURNING p.org_id, p.send_id, p.shard, p.seq - w.n AS first;

-- name: insert_chunk
-- $8: the recipients' ids behind one another.
INSERT INTO chunks (org_id, send_id, shard, seq, class, planned, attempt, repeated, recipients, due_at, own_at, first_attempt)
VALUES ($1, $2, $3, $4, $5, false, $6, $7,
        ARRAY(SELECT encode(substr($8::bytea, n * 16 + 1, 16), 'hex')::uuid
                FROM generate_series(0, length($8::bytea) / 16 - 1) AS n ORDER BY n), $9, $10, $11);

-- name: move_marks
-- Marks only rise. `wait_s` puts a chunk back into the queue. Who puts it back through no fault of the chunk, or has
-- brought outcomes of it, takes claims back.
UPDATE chunks c
   SET started = greatest(c.started, k.started),
       closed_at = CASE WHEN k.closed THEN now() ELSE c.closed_at END,
       due_at = CASE WHEN k.wait_s IS NULL THEN c.due_at ELSE now() + make_interval(secs => k.wait_s) END,
       claims = greatest(c.claims - k.unclaim, 0)
  FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::integer[], $5::smallint[], $6::boolean[],
              $7::double precision[], $8::smallint[]) AS k(org_id, send_id, shard, seq, started, closed, wait_s, unclaim)
 WHERE c.org_id = k.org_id AND c.send_id = k.send_id AND c.shard = k.shard AND c.seq = k.seq;

-- ============================================================ account

-- name: news
SELECT n.org_id, n.send_id, n.event, n.at, s.project_id, s.channel, s.class, s.token_count, s.scheduled_for
  FROM send_news n JOIN sends s ON s.org_id = n.org_id AND s.id = n.send_id
 WHERE s.channel = ANY($2::text[]) ORDER BY n.at, n.event DESC LIMIT $1 FOR UPDATE OF n SKIP LOCKED;

-- name: drop_news
DELETE FROM send_news n USING unnest($1::uuid[], $2::uuid[], $3::text[]) AS k(org_id, send_id, event)
 WHERE n.org_id = k.org_id AND n.send_id = k.send_id AND n.event = k.event;

-- name: chunks_to_account
SELECT c.org_id, c.send_id, c.shard, c.seq, s.project_id, s.channel
  FROM chunks c JOIN sends s ON s.org_id = c.org_id AND s.id = c.send_id
 WHERE c.closed_at IS NOT NULL AND NOT c.accounted AND s.channel = ANY($2::text[])
 ORDER BY c.closed_at LIMIT $1 FOR UPDATE OF c SKIP LOCKED;

-- name: outcomes_of
-- The rows of these chunks, each chunk named by its place. OFFSET 0 keeps the look-up a walk along the primary key for each
-- chunk, whatever the statistics say of a month that has just begun.
SELECT k.n, d.recipient, d.user_id, d.state, d.reason, d.variant, d.provider, d.provider_id, d.attempt, d.repeated, d.at
  FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::integer[]) WITH ORDINALITY AS k(org_id, send_id, shard, seq, n)
 CROSS JOIN LATERAL (
     SELECT * FROM deliveries d
      WHERE d.org_id = k.org_id AND d.send_id = k.send_id AND d.shard = k.shard AND d.seq = k.seq AND d.state <> 'deferred'
     OFFSET 0) AS d;

-- name: count_outcomes
-- They come in the order of the key, because several accountants may count one send.
INSERT INTO send_counts (org_id, send_id, day, state, reason, variant, n, repeated)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::date[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
    ON CONFLICT (org_id, send_id, day, state, reason, variant)
    DO UPDATE SET n = send_counts.n + excluded.n, repeated = send_counts.repeated + excluded.repeated;

-- name: set_accounted
UPDATE chunks c SET accounted = true
  FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::integer[]) AS k(org_id, send_id, shard, seq)
 WHERE c.org_id = k.org_id AND c.send_id = k.send_id AND c.shard = k.shard AND c.seq = k.seq;

-- name: sends_to_close
-- Planned to the end, and no chunk open or to account. A follow-up chunk is committed with the closing of the one that
-- it follows, so between two statements nothing can slip through.
SELECT s.org_id, s.id FROM sends s
 WHERE s.status IN ('queued', 'sending') AND s.planned_at IS NOT NULL AND s.channel = ANY($2::text[])
   AND NOT EXISTS (SELECT FROM chunks c WHERE c.org_id = s.org_id AND c.send_id = s.id AND NOT c.accounted)
 LIMIT $1;

-- name: lock_to_close
SELECT s.* FROM sends s
 WHERE s.org_id = $1 AND s.id = $2 AND s.status IN ('queued', 'sending') AND s.planned_at IS NOT NULL
   AND NOT EXISTS (SELECT FROM chunks c WHERE c.org_id = s.org_id AND c.send_id = s.id AND NOT c.accounted)
   FOR UPDATE OF s SKIP LOCKED;

-- ============================================================ report

-- name: reconcile
-- One statement, so that both sides of the balance are of one instant.
SELECT t.targeted, t.written - t.recorded AS open, d.state, d.reason, d.variant, d.n, d.repeated
  FROM (SELECT (SELECT coalesce(sum(size) FILTER (WHERE planned), 0) FROM chunks WHERE org_id = $1 AND send_id = $2) AS targeted,
               (SELECT coalesce(sum(size), 0) FROM chunks WHERE org_id = $1 AND send_id = $2) AS written,
               (SELECT count(*) FROM deliveries WHERE org_id = $1 AND send_id = $2) AS recorded) AS t
  LEFT JOIN (SELECT state, reason, variant, count(*) AS n, count(*) FILTER (WHERE repeated) AS repeated FROM deliveries
              WHERE org_id = $1 AND send_id = $2 AND state <> 'deferred' GROUP BY state, reason, variant) AS d ON true;

-- name: counts_of
-- For lists: from the folded counters. What is not accounted yet stands under open.
SELECT s.id AS send_id, coalesce(k.targeted, 0) AS targeted, c.state, c.n, c.repeated
  FROM unnest($2::uuid[]) AS s(id)
  LEFT JOIN LATERAL (SELECT sum(size) AS targeted FROM chunks
                      WHERE org_id = $1 AND send_id = s.id AND planned) AS k ON true
  LEFT JOIN LATERAL (SELECT state, sum(n)::bigint AS n, sum(repeated)::bigint AS repeated FROM send_counts
                      WHERE org_id = $1 AND send_id = s.id GROUP BY state) AS c ON true;

-- name: folded
-- What a closed send has come to: everything of it has been folded.
SELECT state, nullif(reason, '') AS reason, nullif(variant, '') AS variant, sum(n)::bigint AS n
  FROM send_counts WHERE org_id = $1 AND send_id = $2 GROUP BY state, reason, variant;

-- name: ended
-- A walk along the primary key, as far as the page.
SELECT recipient, user_id, state, reason, variant, provider_id, attempt, repeated, at
  FROM deliveries
 WHERE org_id = $1 AND send_id = $2 AND state <> 'deferred'
   AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR variant = $4)
 ORDER BY shard, seq, position LIMIT $5 OFFSET $6;

-- name: not_sent
-- The same for those who are few where things go well: along `deliveries_not_sent`.
SELECT recipient, user_id, state, reason, variant, provider_id, attempt, repeated, at
  FROM deliveries
 WHERE org_id = $1 AND send_id = $2 AND state IN ('rejected', 'suppressed', 'expired', 'unknown')
   AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR variant = $4)
   AND ($5::text IS NULL OR coalesce(reason, 'unspecified') = $5)
 ORDER BY state, shard, seq, position LIMIT $6 OFFSET $7;

-- name: still_open
SELECT r.recipient, NULL::text AS user_id, 'open' AS state, NULL::text AS reason, NULL::text AS variant,
       NULL::text AS provider_id, c.attempt, c.repeated, NULL::timestamptz AS at
  FROM chunks c CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r(recipient, n)
 WHERE c.org_id = $1 AND c.send_id = $2 AND c.closed_at IS NULL
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.org_id = c.org_id AND d.send_id = c.send_id AND d.shard = c.shard
                      AND d.seq = c.seq AND d.position = r.n - 1 OFFSET 0)
 ORDER BY c.shard, c.seq, r.n LIMIT $3 OFFSET $4;

-- name: recipients_of
-- Everything of one person in a send: under these names, and, where the ledger has no name, at these addresses. The names
-- are looked up first: a person has been sent to a few hundred times, a send has a million rows.
WITH placed AS MATERIALIZED (
    SELECT c.shard, c.seq, (r.n - 1)::smallint AS position, r.recipient, c.attempt, c.repeated, c.closed_at IS NULL AS is_open
      FROM chunks c CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r(recipient, n)
     WHERE c.org_id = $1 AND c.send_id = $2 AND c.recipients && $4::uuid[] AND r.recipient = ANY($4)
), listed AS (
    SELECT d.shard, d.seq, d.position, d.recipient, d.user_id, d.state, d.reason, d.variant, d.provider_id, d.attempt,
           d.repeated, d.at
      FROM (SELECT * FROM deliveries WHERE org_id = $1 AND user_id = ANY($3::text[]) OFFSET 0) AS d
     WHERE d.send_id = $2
    UNION ALL
    SELECT p.shard, p.seq, p.position, p.recipient, d.user_id, d.state, d.reason, d.variant, d.provider_id, d.attempt,
           d.repeated, d.at
      FROM placed p CROSS JOIN LATERAL (
          SELECT * FROM deliveries
           WHERE org_id = $1 AND send_id = $2 AND shard = p.shard AND seq = p.seq AND position = p.position OFFSET 0) AS d
     WHERE d.user_id IS NULL
    UNION ALL
    SELECT p.shard, p.seq, p.position, p.recipient, NULL, 'open', NULL, NULL, NULL, p.attempt, p.repeated, NULL
      FROM placed p
     WHERE p.is_open AND NOT EXISTS (
         SELECT FROM deliveries d WHERE d.org_id = $1 AND d.send_id = $2 AND d.shard = p.shard AND d.seq = p.seq
                                    AND d.position = p.position OFFSET 0)
)
SELECT recipient, user_id, state, reason, variant, provider_id, attempt, repeated, at
  FROM listed
 WHERE state <> 'deferred'
   AND ($5::text IS NULL OR state = $5) AND ($6::text IS NULL OR coalesce(reason, 'unspecified') = $6)
   AND ($7::text IS NULL OR variant = $7)
 ORDER BY shard, seq, position LIMIT $8;

-- name: sends_of
SELECT s.* FROM unnest($2::uuid[]) WITH ORDINALITY AS k(id, n)
 CROSS JOIN LATERAL (SELECT * FROM sends WHERE org_id = $1 AND id = k.id OFFSET 0) AS s ORDER BY k.n;

-- name: stats
SELECT c.state, sum(c.n)::bigint AS n, sum(c.repeated)::bigint AS repeated
  FROM sends s JOIN send_counts c ON c.org_id = s.org_id AND c.send_id = s.id
 WHERE s.org_id = $1 AND s.project_id = $2 AND s.channel = $3 GROUP BY c.state;

-- name: stats_sends
-- Recipients of what was planned, and of what is scheduled as far as the call named them.
SELECT coalesce(sum(token_count) FILTER (WHERE planned_at IS NOT NULL), 0)::bigint AS targeted,
       coalesce(sum(token_count) FILTER (WHERE status = 'scheduled'), 0)::bigint AS scheduled
  FROM sends WHERE org_id = $1 AND project_id = $2 AND channel = $3;

-- name: top_reasons
SELECT c.reason, sum(c.n)::bigint AS n
  FROM sends s JOIN send_counts c ON c.org_id = s.org_id AND c.send_id = s.id
 WHERE s.org_id = $1 AND s.project_id = $2 AND s.channel = $3 AND c.state = ANY($4::text[])
   AND c.day > (now() AT TIME ZONE 'UTC')::date - $5::integer
 GROUP BY c.reason ORDER BY n DESC, c.reason LIMIT $6;

-- name: last_failures
SELECT d.send_id, d.recipient, d.user_id, d.state, d.reason, d.provider_id, d.attempt, d.at
  FROM deliveries d JOIN sends s ON s.org_id = d.org_id AND s.id = d.send_id
 WHERE d.org_id = $1 AND s.project_id = $2 AND s.channel = $3 AND d.state IN ('rejected', 'expired', 'unknown')
   AND d.at > now() - make_interval(days => $4::integer)
 ORDER BY d.at DESC LIMIT $5;

-- ============================================================ history

-- name: history
-- Everything of one recipient of a send: a row for each chunk that it stands in, without a state where nothing has come of
-- it yet. A walk over the send's chunks, which are a thousandth of its recipients.
WITH placed AS MATERIALIZED (
    SELECT c.shard, c.seq, (r.n - 1)::smallint AS position, c.attempt, c.repeated, c.due_at, c.own_at
      FROM chunks c CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r(recipient, n)
     WHERE c.org_id = $1 AND c.send_id = $2 AND c.recipients @> ARRAY[$3::uuid] AND r.recipient = $3
)
SELECT p.shard, p.due_at, p.own_at, coalesce(d.attempt, p.attempt) AS attempt, coalesce(d.repeated, p.repeated) AS repeated,
       d.user_id, d.state, d.reason, d.variant, d.provider, d.provider_id, d.at
  FROM placed p
  LEFT JOIN LATERAL (
      SELECT * FROM deliveries
       WHERE org_id = $1 AND send_id = $2 AND shard = p.shard AND seq = p.seq AND position = p.position OFFSET 0) AS d ON true
 ORDER BY p.seq;

-- name: caps_of
-- `caps` of one person, as of an earlier instant.
SELECT coalesce(user_id, recipient::text), send_id, at FROM deliveries
 WHERE org_id = $1::uuid AND shard = $2::smallint AND coalesce(user_id, recipient::text) = $3::text
   AND at > $4::timestamptz - interval '24 hours' AND at < $4::timestamptz
   AND state IN ('accepted', 'rejected', 'unknown');

-- ============================================================ people

-- name: forget_person
-- Names are of a project, rows of the org: the send tells whose. In the order of the key, so that two of them never wait
-- for each other in a circle.
WITH named AS (
    SELECT d.org_id, d.send_id, d.shard, d.seq, d.position FROM deliveries d
      JOIN sends s ON s.org_id = d.org_id AND s.id = d.send_id AND s.project_id = $2
     WHERE d.org_id = $1 AND d.user_id = $3
     ORDER BY d.send_id, d.shard, d.seq, d.position LIMIT $4
)
UPDATE deliveries d SET user_id = NULL FROM named n
 WHERE d.org_id = n.org_id AND d.send_id = n.send_id AND d.shard = n.shard AND d.seq = n.seq AND d.position = n.position;

-- name: forget_target
UPDATE sends SET target = jsonb_set(target, ARRAY[$4::text], (target -> $4::text) - $5::text[])
 WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND planned_at IS NULL AND target -> $4::text ?| $5::text[];

-- name: forget_in_schedules
-- One that is for nobody any more is over, and what it said to one person is about that person.
WITH found AS (
    SELECT id, (asked #> ARRAY['target', $4::text]) - $5::text[] AS others FROM schedules
     WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND asked #> ARRAY['target', $4::text] ?| $5::text[]
     ORDER BY id FOR UPDATE
)
UPDATE schedules s
   SET asked = CASE WHEN others = '[]' THEN jsonb_set(asked, '{content}', '{}') ELSE asked END
            || jsonb_build_object('target', jsonb_set(asked -> 'target', ARRAY[$4::text], others)),
       status = CASE WHEN others = '[]' AND status = 'active' THEN 'ended' ELSE status END,
       ended_at = CASE WHEN others = '[]' THEN coalesce(ended_at, now()) ELSE ended_at END
  FROM found
 WHERE s.org_id = $1 AND s.id = found.id;

-- name: awaited_by_person
SELECT id, NULL::uuid AS send_id, id AS schedule_id, status, asked -> 'content' AS content,
       CASE WHEN status = 'active' THEN next_at END AS due_at, created_at
  FROM schedules
 WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND asked #> ARRAY['target', $4::text] ?| $5::text[] AND id > $6
UNION ALL
SELECT id, id, schedule_id, status, content, scheduled_for, created_at FROM sends
 WHERE org_id = $1 AND project_id = $2 AND channel = $3 AND planned_at IS NULL AND target -> $4::text ?| $5::text[]
   AND id > $6
 ORDER BY id LIMIT $7;

-- name: forget_words
-- Sends that named people, are over, and have rows of nobody else. One that was never planned names nobody any more.
UPDATE sends s SET content = '{}'
 WHERE s.org_id = $1 AND s.project_id = $2 AND s.channel = $3 AND s.target ? $4 AND s.content <> '{}'
   AND (s.closed_at IS NOT NULL AND s.planned_at IS NOT NULL
        AND s.id IN (SELECT send_id FROM deliveries WHERE org_id = $1 AND user_id = $5)
        AND NOT EXISTS (SELECT FROM deliveries o WHERE o.org_id = s.org_id AND o.send_id = s.id
                           AND o.user_id IS DISTINCT FROM $5)
        OR s.planned_at IS NULL AND s.target -> $4 = '[]');

-- name: is_quiet
-- An open chunk is not accounted either, which is what the index knows.
SELECT NOT EXISTS (
    SELECT FROM sends s JOIN chunks c ON c.org_id = s.org_id AND c.send_id = s.id
     WHERE s.org_id = $1 AND s.project_id = $2 AND NOT c.accounted AND c.closed_at IS NULL AND c.claims > 0);

-- name: recall_person
SELECT d.send_id, d.shard, d.seq, d.position, s.channel, d.recipient, d.state, d.reason, d.variant, d.provider_id, d.attempt,
       d.repeated, d.at
  FROM deliveries d JOIN sends s ON s.org_id = d.org_id AND s.id = d.send_id AND s.project_id = $2
 WHERE d.org_id = $1 AND d.user_id = $3 AND s.channel = $4 AND (d.send_id, d.shard, d.seq, d.position) > ($5, $6, $7, $8)
   AND d.state <> 'deferred'
 ORDER BY d.send_id, d.shard, d.seq, d.position LIMIT $9;

-- name: recipients_of_person
-- One person's recipients of a send: by the name that stands with the outcome, and, while there is none, by address ($4) in
-- the shards ($5) of the person's names ($3). Who waits says what for.
SELECT d.recipient, d.state, d.reason FROM deliveries d
 WHERE d.org_id = $1 AND d.send_id = $2 AND d.user_id = ANY($3::text[]) AND d.state <> 'deferred'
UNION ALL
SELECT r.recipient, 'open',
       (SELECT d.reason FROM deliveries d
         WHERE d.org_id = $1 AND d.send_id = $2 AND d.user_id = ANY($3::text[]) AND d.recipient = r.recipient
           AND d.state = 'deferred' ORDER BY d.at DESC LIMIT 1)
  FROM chunks c CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r(recipient, n)
 WHERE c.org_id = $1 AND c.send_id = $2 AND c.shard = ANY($5::smallint[]) AND c.closed_at IS NULL
   AND r.recipient = ANY($4::uuid[])
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.org_id = c.org_id AND d.send_id = c.send_id AND d.shard = c.shard
                      AND d.seq = c.seq AND d.position = r.n - 1)
 ORDER BY recipient LIMIT $6;

-- ============================================================ rescue

-- name: overdue
-- What should have been taken up by now: its wake was lost, or nobody is there to hear it.
SELECT (SELECT count(*) FROM sends WHERE status = 'scheduled' AND scheduled_for < now() - make_interval(secs => $1::double precision)) AS scheduled,
       (SELECT count(*) FROM sends WHERE planned_at IS NULL AND status IN ('queued', 'sending', 'paused')
           AND plan_until < now() AND created_at < now() - make_interval(secs => $1::double precision)) AS plans,
       (SELECT count(*) FROM chunks WHERE closed_at < now() - make_interval(secs => $1::double precision) AND NOT accounted) AS accounts;

-- name: overdue_shards
SELECT c.shard, count(*) AS chunks FROM chunks c JOIN sends s ON s.org_id = c.org_id AND s.id = c.send_id
 WHERE c.closed_at IS NULL AND c.due_at < now() - make_interval(secs => $1::double precision) AND s.status = 'sending'
 GROUP BY c.shard ORDER BY c.shard;
