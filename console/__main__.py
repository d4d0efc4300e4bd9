"""`python -m everlog.console` is the command `everlog`."""

from everlog.console.main import main

main()
