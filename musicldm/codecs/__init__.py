"""Media <-> raw latents."""
