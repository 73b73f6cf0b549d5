"""Runs the program with the arguments of this process."""

import os
import sys
import sysconfig
from pathlib import Path

NAME = "migrate-llm-cache.exe" if os.name == "nt" else "migrate-llm-cache"


def installed() -> Path:
    """The program that was installed beside this package: into an environment, or for one user."""
    user = "nt_user" if os.name == "nt" else "posix_user"
    for folder in (sysconfig.get_path("scripts"), sysconfig.get_path("scripts", scheme=user)):
        if (program := Path(folder, NAME)).is_file():
            return program
    sys.exit(f"{NAME} is not installed beside this package; install it again: pip install --force-reinstall migrate-llm-cache")


def main() -> None:
    program = str(installed())
    if os.name == "nt":
        import subprocess

        sys.exit(subprocess.run([program, *sys.argv[1:]], check=False).returncode)
    os.execv(program, [program, *sys.argv[1:]])


if __name__ == "__main__":
    main()
