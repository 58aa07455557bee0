"""The delivery floor: from a committed send to a ledger that balances, whatever the channel.

Read it in the order in which a message meets it: phases, channel, submit, plan, shards, dispatch (fair, flight, caps),
lanes, ledger, account. `state` and `retry` are arithmetic, `schedule` and `rescue` are clocks, `report` says how it
went, `people` finds one person in the ledger, `failpoint` is where tests end it.
"""
