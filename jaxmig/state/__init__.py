"""The machine: arrays of frames, entries, translations; helpers for JAX and XLA."""
