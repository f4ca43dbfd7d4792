"""`python -m anomalyr1`."""

from anomalyr1.cli.main import main

if __name__ == "__main__":
    main()
