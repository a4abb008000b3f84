"""The commands of ``fxpress``, a module each: what it takes, what it prints, its exit code."""
