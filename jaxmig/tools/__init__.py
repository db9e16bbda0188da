"""Complete tasks: migrate a target, play a scenario, sweep a grid, calibrate, reproduce.

Each builds machines from `sources`, makes `calls` on them, prices the counts with `time`
and returns records or rows.  Only commands and pictures import this folder; it parses no
arguments and prints nothing.
"""
