# The samples of the API reference for what is built here, word for word.

curl -X POST {{BASE_URL}}/api/v1/push/send \
  -H "x-api-key: sk_prod_..." \
  -d '{
    "userIds": ["u_1"],
    "title": "EMERGENCY",
    "body": "Building evac in 3 min",
    "criticalAlert": { "soundName": "siren.caf", "volume": 1.0 }
  }'

TEST_ID=$(curl -s -X POST https://api.sendoracloud.com/api/v1/push/ab-tests \
  -H "x-api-key: sk_prod_..." \
  -d '{
    "name": "subject-line-test",
    "status": "active",
    "variants": [
      { "key": "A", "title": "20% off", "body": "Today only", "weight": 50 },
      { "key": "B", "title": "Last chance — 20% off", "body": "Ends midnight", "weight": 50 }
    ]
  }' | jq -r .data.id)

curl -X POST https://api.sendoracloud.com/api/v1/push/send \
  -H "x-api-key: sk_prod_..." \
  -d '{
    "audienceId": "<AUD>",
    "abTestId": "'"$TEST_ID"'",
    "title": "fallback-if-no-variants-defined",
    "body": "fallback"
  }'

curl https://api.sendoracloud.com/api/v1/push/ab-tests/$TEST_ID/stats \
  -H "x-api-key: sk_prod_..."

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/send \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "userIds": ["u_abc123"],
    "title": "Order shipped",
    "body": "Your package is on the way",
    "data": { "orderId": "ord_42", "url": "/orders/42" }
  }'

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/send \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "audienceId": "<AUDIENCE_UUID>",
    "title": "Sale starts now",
    "body": "20% off everything",
    "localizedBody": { "en": "20% off everything", "fr": "20% sur tout", "es-MX": "20% en todo" }
  }'

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/send \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "audienceId": "<AUDIENCE_UUID>",
    "title": "Daily digest",
    "body": "Today\u2019s top stories",
    "scheduledFor": "2026-05-09T08:00:00Z"
  }'

curl -X POST https://api.sendoracloud.com/api/v1/push/track-open \
  -H "x-api-key: pk_prod_…" \
  -d '{ "sendId": "<SEND_UUID>", "clickAction": "save" }'

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/settings \
  -H "x-api-key: pk_prod_…"

curl -X PATCH https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/settings \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "quietHoursStartLocal": 22,
    "quietHoursEndLocal": 7,
    "deferInQuietHours": true,
    "freqCapPerUserPerDay": 5,
    "freqCapPerUserPerHour": 2
  }'

curl 'https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/sends?status=failed&pageSize=20' \
  -H "x-api-key: pk_prod_…"

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/sends/stats \
  -H "x-api-key: pk_prod_…"

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/sends/delivery-health \
  -H "x-api-key: pk_prod_…"

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/templates \
  -H "x-api-key: pk_prod_…" \
  -d '{ "name": "welcome", "title": "Welcome!", "body": "Tap to start", "actions": [{"id":"start","title":"Start"}] }'

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/templates \
  -H "x-api-key: pk_prod_…"

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/ab-tests \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "name": "subject-line-test",
    "status": "active",
    "variants": [
      { "key": "A", "title": "20% off everything", "body": "Today only", "weight": 50 },
      { "key": "B", "title": "Last chance — 20% off", "body": "Ends midnight", "weight": 50 }
    ]
  }'

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/ab-tests/<TEST_UUID>/stats \
  -H "x-api-key: pk_prod_…"

curl -X PATCH https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/live-activities/<ACTIVITY_UUID>/update \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "contentState": { "status": "delivered", "minutesAway": 0 },
    "alert": { "title": "Order delivered", "body": "Enjoy!" }
  }'

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/live-activities \
  -H "x-api-key: pk_prod_…"

curl -X DELETE https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/live-activities/<ACTIVITY_UUID> \
  -H "x-api-key: pk_prod_…"

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/geofences \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "name": "Downtown SF",
    "latitude": 37.7749,
    "longitude": -122.4194,
    "radiusMeters": 500,
    "triggers": ["enter", "exit"],
    "priority": 10,
    "enabled": true
  }'

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/geofences -H "x-api-key: pk_prod_…"

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/geofences/<GEOFENCE_UUID>/stats \
  -H "x-api-key: pk_prod_…"

curl https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/profiles/<PROFILE_UUID> \
  -H "x-api-key: pk_prod_…"

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/audiences \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "name": "Active Pro users",
    "rules": { "all": [
      { "trait": "plan", "op": "eq", "value": "pro" },
      { "event": "feature_used", "op": "occurred_in_last", "value": "30d" }
    ]}
  }'

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/data-io/export \
  -H "x-api-key: pk_prod_…" \
  -d '{ "module": "profiles", "filter": { "profileId": "<PROFILE_UUID>" } }'

curl -X POST https://api.sendoracloud.com/api/v1/consent/deletion-request \
  -H "x-api-key: pk_prod_…" \
  -d '{ "userId": "u_abc123", "scope": "all" }'

curl -X DELETE https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/profiles/<PROFILE_UUID> \
  -H "x-api-key: pk_prod_…"

curl -X POST https://api.sendoracloud.com/api/v1/orgs/<ORG_UUID>/push/send \
  -H "x-api-key: pk_prod_…" \
  -d '{
    "audienceId": "<AUDIENCE_UUID>",
    "title": "Sale starts now",
    "body": "20% off everything"
  }'
