"""``python -m advreg`` is the command line."""

from advreg.cli import main

if __name__ == "__main__":  # worker processes import this module
    main()
