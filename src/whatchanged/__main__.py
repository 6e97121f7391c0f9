"""``python -m whatchanged``, and with it ``accelerate launch -m whatchanged``."""

from whatchanged.cli import main

main()
