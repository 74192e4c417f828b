"""Configuration -> trained bundle: the only folder that imports lightning."""
