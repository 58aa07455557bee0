"""Rows of this room as structs: the only SQL of push. `tokens`, `targets` (who a send is for), `providers`, `content`
(templates, tests, policies) and `feedback` (opens, and what became of addresses)."""
