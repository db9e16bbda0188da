"""The paths in Linux that end in migrate_pages(): system calls, and kernel callers.

They run on the host over numpy views of a machine, and hand lists of folios to the
compiled engine.  Time, files and the command line are not known here.
"""
