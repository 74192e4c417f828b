"""What a generator is told beside the noise."""
