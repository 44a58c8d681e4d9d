"""`python -m segnas` is `segnas`; torchrun starts modules: torchrun --nproc-per-node 2 -m segnas run ..."""

from segnas.cli import main

if __name__ == "__main__":
    main()
