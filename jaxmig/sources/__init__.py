"""Where machines come from: regions, scenario files, processes, snapshots."""
