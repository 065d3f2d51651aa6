"""`python -m camtrain`."""

from camtrain.cli import main

main()
