"""What networks share: blocks, norms, attention, embeddings."""
