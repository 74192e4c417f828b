"""How good is it: distances between sets of audio."""
