"""Audio files <-> waveforms: float32 in [-1, 1], shaped [C, T]."""
