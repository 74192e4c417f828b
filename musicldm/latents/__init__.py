"""Raw latents <-> the store on disk <-> normalised latents."""
