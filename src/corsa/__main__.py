"""`python -m corsa`: the command line where its script is not on the path."""

from corsa.cli import main

if __name__ == "__main__":
    main()
