"""What was asked of the lab, what was measured, and why a figure falls short: `make figures`."""
