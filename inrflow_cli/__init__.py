"""The command line of inrflow: parse options, call the core, print."""
