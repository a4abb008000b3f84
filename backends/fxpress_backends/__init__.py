"""The program leaves: artifacts, their targets, and measuring them."""
