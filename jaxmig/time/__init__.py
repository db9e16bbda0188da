"""Modelled time in ns: machine profiles, prices of events, accesses during a migration.

It prices what a call has counted, and plays programs beside a migration.  It reads no page
table and runs no call; of Linux it knows the releases' rules.
"""
