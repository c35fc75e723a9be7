"""`python -m refsr_cli`."""

from refsr_cli.cli import main

if __name__ == "__main__":
    main()
