"""`python -m bridge` is `smtp-bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main()
