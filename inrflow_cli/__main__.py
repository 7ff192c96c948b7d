"""`python -m inrflow_cli` is the program `inrflow`."""

from inrflow_cli.app import main

if __name__ == "__main__":
    main()
