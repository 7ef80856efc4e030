"""Real corpora that need no hub: documentation packages and the source of installed Python packages."""
