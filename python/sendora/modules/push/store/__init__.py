"""Rows of this room as structs: the only SQL of push. `tokens`, `targets` (who a send is for), `providers`, `content`
(templates, tests, policies), `feedback` (opens, and how the lanes fare) and `quarantine` (dead addresses)."""
