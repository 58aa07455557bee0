"""The nouns of push and the rules that need nothing else: no IO.

`content` is what a message says (sends, templates, A/B variants), `sends` the request and the row of a send, `tokens`
devices, `providers` credentials, `policies` the settings of an org.
"""
