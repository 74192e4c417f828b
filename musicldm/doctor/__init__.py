"""A look at machine, music, latents and models before hours of work."""
