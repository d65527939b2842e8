"""``python -m dmgan_fast``."""

from dmgan_fast.cli import main

main()
