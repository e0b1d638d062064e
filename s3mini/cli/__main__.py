"""``python -m s3mini.cli``."""

from . import main

main()
