"""TOML files, one preset each: `vae-<name>.toml` and `ldm-<name>.toml`."""
