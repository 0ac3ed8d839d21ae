"""What no look at a running loop can show: tried out on copies of a network, its loss and its batches.

The network itself, its hooks and the random state are as before.
"""
