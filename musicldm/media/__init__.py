"""Music on disk <-> tensors."""
