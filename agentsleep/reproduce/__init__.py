"""The evidence: every table of the docs from one command, over several seeds and with its baselines."""
