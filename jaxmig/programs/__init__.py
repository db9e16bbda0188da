"""Programs that use memory while it moves: workloads, recorded traces, their waits.

They give accesses to the timeline of `jaxmig.time` and read its totals.  They know nothing
of machines with page tables, nor of options and files of results.
"""
