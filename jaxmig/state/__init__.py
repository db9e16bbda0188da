"""What a machine is: arrays of frames, entries, translations; what JAX and XLA need."""
