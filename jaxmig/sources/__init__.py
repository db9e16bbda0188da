"""Sources of machines: regions, scenario files, live processes, snapshots, workloads.

Each reads its input, checks it, and lays out a Machine on the host.  What calls do to the
machine, and what that costs, is not known here.
"""
