"""Prints the part of requirements.lock that running needs, without what only developing needs.

One lock serves both. Under each entry it says who asked for it ("# via ..."): from the run-time
dependencies of pyproject.toml, everything reachable that way is kept, with its hashes.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def runtime_lock(lock: str, requirements: list[str]) -> str:
    """The entries of ``lock`` that ``requirements`` need, directly or not."""
    entries = [
        (_name(text), _askers(text), text) for text in re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]
    ]
    needed = {_name(requirement) for requirement in requirements}
    size = 0
    while size < len(needed):
        size = len(needed)
        needed |= {name for name, askers, _ in entries if askers & needed}
    return "".join(text for name, _, text in entries if name in needed)


def _name(text: str) -> str:
    return re.split(r"[^\w.-]", text, maxsplit=1)[0].lower().replace("_", "-")


def _askers(entry: str) -> set[str]:
    return {_name(asker) for asker in re.findall(r"^ +#(?: via)? +(\S+)", entry, flags=re.MULTILINE)}


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = project["project"]["dependencies"] + project["build-system"]["requires"]
    print(runtime_lock((ROOT / "requirements.lock").read_text(), requirements), end="")
