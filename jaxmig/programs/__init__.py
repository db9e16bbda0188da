"""Programs that use memory while it moves: workloads, recorded accesses, what they wait."""
