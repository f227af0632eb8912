"""`python -m mimicfs` is the command `mimicfs`."""

from mimicfs.cli import main

main()
