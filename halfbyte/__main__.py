"""`python -m halfbyte` is the `halfbyte` program."""

from halfbyte.cli.main import app

app(prog_name="halfbyte")
