-- A circle on the ground that apps watch (B133).
CREATE TABLE geofences (
    org_id        uuid NOT NULL,
    id            uuid NOT NULL,
    project_id    uuid NOT NULL,
    name          text NOT NULL,
    latitude      double precision NOT NULL CHECK (latitude BETWEEN -90 AND 90),
    longitude     double precision NOT NULL CHECK (longitude BETWEEN -180 AND 180),
    radius_meters double precision NOT NULL CHECK (radius_meters > 0),
    triggers      text[] NOT NULL,
    priority      integer NOT NULL,
    enabled       boolean NOT NULL,
    dwell_seconds integer,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id)
);

CREATE INDEX geofences_by_project ON geofences (org_id, project_id);

-- What a fence's transitions come to, by UTC day of their occurrence; nobody's name is in it (B136).
CREATE TABLE geofence_days (
    org_id      uuid NOT NULL,
    geofence_id uuid NOT NULL,
    day         date NOT NULL,
    entered     bigint NOT NULL,
    exited      bigint NOT NULL,
    dwelled     bigint NOT NULL,
    PRIMARY KEY (org_id, geofence_id, day)
);

-- What is walked over when days have had their time.
CREATE INDEX geofence_days_old ON geofence_days (day);
