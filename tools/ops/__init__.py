"""The operator's commands: see, mend and measure what runs, from a laptop or a script."""
