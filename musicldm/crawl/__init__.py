"""The web -> audio files."""
