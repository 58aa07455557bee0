-- writes: push_opens, push_lane_health
-- reads: sends

-- name: record_opens
-- An open of a send that is not of the caller's project, or of a device that is not of the org, is dropped: anybody who has
-- the public key can make one up (C94). The first instant counts. OFFSET 0 keeps both look-ups by the primary key: else all
-- devices of all orgs may be read for a handful of opens.
WITH said AS MATERIALIZED (
    SELECT g.org AS org_id, g.send AS send_id, g.recipient, g.opened_at, g.clicked_at, g.action, t.user_id
      FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::timestamptz[], $7::text[])
        AS g (org, project, send, recipient, opened_at, clicked_at, action)
     CROSS JOIN LATERAL (SELECT project_id, channel FROM sends WHERE org_id = g.org AND id = g.send OFFSET 0) AS s
      LEFT JOIN LATERAL (SELECT id, user_id FROM push_tokens WHERE org_id = g.org AND id = g.recipient OFFSET 0) AS t ON true
     WHERE s.project_id = g.project AND s.channel = 'push'
       AND (g.recipient = '00000000-0000-0000-0000-000000000000' OR t.id IS NOT NULL)
), written AS (
    INSERT INTO push_opens AS o (org_id, send_id, recipient, opened_at, clicked_at, click_action)
    SELECT org_id, send_id, recipient, opened_at, clicked_at, action FROM said ORDER BY org_id, send_id, recipient
    ON CONFLICT (org_id, send_id, recipient) DO UPDATE SET
        opened_at = least(o.opened_at, excluded.opened_at),
        clicked_at = coalesce(o.clicked_at, excluded.clicked_at),
        click_action = coalesce(o.click_action, excluded.click_action)
    RETURNING org_id, send_id, recipient, opened_at, clicked_at, click_action
)
SELECT w.*, s.user_id FROM written w JOIN said s USING (org_id, send_id, recipient);

-- name: opens_of_send
SELECT min(opened_at) AS opened_at, min(clicked_at) AS clicked_at,
       (array_agg(click_action ORDER BY clicked_at) FILTER (WHERE clicked_at IS NOT NULL))[1] AS click_action
  FROM push_opens WHERE org_id = $1 AND send_id = $2;

-- name: opens_of_project
SELECT count(*) AS opened, count(o.clicked_at) AS clicked
  FROM push_opens o JOIN sends s ON s.org_id = o.org_id AND s.id = o.send_id
 WHERE o.org_id = $1 AND s.project_id = $2 AND s.channel = 'push';

-- name: forget_opens
DELETE FROM push_opens WHERE org_id = $1 AND recipient = ANY($2::uuid[]);

-- name: add_health
INSERT INTO push_lane_health AS h (org_id, project_id, platform, minute, accepted, dead)
SELECT $1, $2, g.platform, date_trunc('minute', now()), g.accepted, g.dead
  FROM unnest($3::text[], $4::bigint[], $5::bigint[]) AS g (platform, accepted, dead)
 ORDER BY g.platform
ON CONFLICT (org_id, project_id, platform, minute) DO UPDATE
SET accepted = h.accepted + excluded.accepted, dead = h.dead + excluded.dead;

-- name: recent_health
SELECT platform, sum(accepted)::bigint AS accepted, sum(dead)::bigint AS dead FROM push_lane_health
 WHERE org_id = $1 AND project_id = $2 AND minute > now() - make_interval(mins => $3) GROUP BY platform;

-- name: forget_health
DELETE FROM push_lane_health WHERE minute < now() - make_interval(days => $1);
