"""What a training loop does, recorded while it runs: events of torch become windows, steps and their numbers.

Modules here observe and measure; none says whether anything is wrong.
"""
