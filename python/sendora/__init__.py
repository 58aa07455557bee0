"""Sendora: events in, people and audiences kept, messages out, every outcome accounted for.

kernel    what any such program needs: settings, time, errors, Postgres, the log, Redis, HTTP, secrets
delivery  the path of a send, channel-blind, one file for each stage
modules   one room for each product noun
app       puts the rooms on the floors; __main__ is the `sendora` command
_core     the Rust library: whatever touches every event or every recipient
"""
