"""Nanoseconds: profiles of machines, prices of events, accesses beside a migration."""
