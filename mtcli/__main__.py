"""``python -m mtcli``: the command line without its script. Knows nothing else."""

from mtcli.cli import main

if __name__ == "__main__":
    main()
