"""The command line: the only folder that imports typer and rich."""
