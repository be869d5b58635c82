"""`python -m transfer_engine.benchmarks`: the same as `transfer-engine bench`."""

from transfer_engine.benchmarks.command_line import main

if __name__ == "__main__":
    main()
