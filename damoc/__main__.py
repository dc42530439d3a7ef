"""``python -m damoc`` is the command line."""

from damoc.cli import main

main()
