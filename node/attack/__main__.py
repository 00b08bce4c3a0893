"""`python -m node.attack`: what `rexis attack` runs."""

from node.attack.cli import attack

if __name__ == "__main__":
    attack(prog_name="rexis attack")
