"""``python -m open4m.cli``, which torchrun needs."""

from open4m.cli import entry

if __name__ == "__main__":
    entry()
