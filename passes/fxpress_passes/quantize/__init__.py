"""float ==> simulated ==> integer."""
