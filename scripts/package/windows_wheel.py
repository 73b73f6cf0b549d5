"""Writes the wheel for Windows around a program that was built elsewhere.

    python3 scripts/package/windows_wheel.py migrate-llm-cache.exe FOLDER

The format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> None:
    program, folder = Path(sys.argv[1]), Path(sys.argv[2])
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]["version"]
    name = project["name"].replace("-", "_")
    info = f"{name}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"License-Expression: {project['license']}",
        "License-File: LICENSE",
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown",
        *(f"Classifier: {classifier}" for classifier in project["classifiers"]),
        "",
        (ROOT / "README.md").read_text(encoding="utf-8"),
    ]
    files = {
        f"{name}/{module.name}": module.read_bytes() for module in sorted((HERE / "python" / name).glob("*.py"))
    }
    files[f"{name}-{version}.data/scripts/{program.name}"] = program.read_bytes()
    files[f"{info}/METADATA"] = "\n".join(metadata).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: migrate-llm-cache\nRoot-Is-Purelib: false\nTag: py3-none-win_amd64\n"
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    record = [f"{path},sha256={digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-win_amd64.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in files.items():
            # A fixed time, so that the same files make the same wheel.
            wheel.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    main()
