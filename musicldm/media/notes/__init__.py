"""Music as notes: MIDI files, the grid, rolls for networks, and sound again."""
