"""One file for each command: parse, call the core, print."""
