"""``python -m secagg``: the same as the command ``secagg``."""

from secagg.cli.main import main

if __name__ == "__main__":
    main()
