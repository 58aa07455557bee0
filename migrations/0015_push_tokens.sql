-- One subscription for each device, and why an address went (or did not go) into quarantine.
ALTER TABLE push_tokens
    ADD COLUMN device_id   text,              -- the SDK's name for the installation; of one only the newest token is active
    ADD COLUMN restored_at timestamptz,       -- what a provider said before does not retire it again
    -- The evidence of the quarantine: what a provider said, whose words they were, of which send, and when.
    ADD COLUMN dead_reason text,
    ADD COLUMN dead_lane   text,              -- apns, apns:sandbox, fcm, webpush
    ADD COLUMN dead_send   uuid,
    ADD COLUMN dead_at     timestamptz;

-- From now on `quarantined_at` is when an address came into quarantine: retired on a provider's word, or held by the guard
-- (then it is still active).
UPDATE push_tokens
   SET quarantined_at = retired_at, dead_reason = retired_reason, dead_at = retired_at,
       dead_lane = CASE WHEN platform = 'android' THEN 'fcm' WHEN platform = 'web' THEN 'webpush'
                        WHEN environment = 'sandbox' THEN 'apns:sandbox' ELSE 'apns' END
 WHERE NOT is_active AND retired_reason NOT IN ('raw', 'logout');

CREATE INDEX push_tokens_quarantine ON push_tokens (org_id, project_id, quarantined_at) WHERE quarantined_at IS NOT NULL;

-- A device's siblings. Those that are gone for good are not among them, however many somebody makes of one device.
CREATE INDEX push_tokens_by_device ON push_tokens (org_id, project_id, device_id)
 WHERE device_id IS NOT NULL AND (is_active OR quarantined_at IS NOT NULL);
