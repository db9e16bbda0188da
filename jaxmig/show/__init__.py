"""Pictures and HTML pages of results.

They draw numbers that reports, sweeps and snapshots already have.  Only the command line
imports this folder, when a picture or a page is asked for.
"""
