"""Passes that fold one operator's constants into another's."""
