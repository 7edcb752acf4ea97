"""What the system costs, as ratios against the bare calls that cannot be avoided, measured in the same run."""
