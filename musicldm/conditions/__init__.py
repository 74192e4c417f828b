"""What a generator is conditioned on beside the noise: one file a condition."""
