"""Where the program starts."""

import sys


def main() -> None:
    """The `musicldm` command; a Ctrl-C while it loads is as quiet as one later."""
    try:
        from musicldm.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
