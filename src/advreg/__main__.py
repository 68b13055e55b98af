"""``python -m advreg`` is the command line."""

from advreg.cli import main

main()
