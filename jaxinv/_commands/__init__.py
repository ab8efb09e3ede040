"""The implementations of the subcommands of `jaxinv`; `cli.py` imports one only when it runs."""
