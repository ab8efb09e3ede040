"""What the subcommands of `jaxinv` run; imported only when one of them does."""
