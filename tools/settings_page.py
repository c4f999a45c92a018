"""Prints docs/settings.md from the declarations in cro_core.config; `make docs` writes it, a test compares."""

import json
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cro_core.config import Config

INTRODUCTION = """# Settings

Every setting of `cro-config.json`, the file that `cro init` writes. What a file leaves out has the default below.
An environment variable overrides the file: `CRO_` and the key in capitals with `__` for each dot, so
`CRO_AUTOMATION__MAX_CONCURRENT_TESTS=3`. `cro config` prints every effective value and where it came from, and
warns where a choice costs validity or power. A value out of range is refused by name and nothing starts.

Experiments that run keep the plan they were started with; settings count for those that start afterwards.

Not settings, but read from the environment: `CRO_HOME` (the folder), `CRO_DATABASE_URL` (PostgreSQL in the place
of SQLite), `CRO_ADMIN_KEY` and `CRO_SALT` (in the place of `data/secrets.json`).
"""

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_sections())


def _sections() -> Iterator[str]:
    plain = {}
    for name, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield f"\n## {name}\n\n{info.annotation.__doc__}\n\n" + _table(info.annotation.model_fields)
        else:
            plain[name] = info
    yield "\n## Goals\n\n" + _table(plain)


def _table(fields: dict[str, FieldInfo]) -> str:
    rows = [
        f"| `{name}` | {_default(info)} | {_allowed(info)} | {info.description} |\n"
        for name, info in fields.items()
    ]
    return "| key | default | allowed | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    return f"`{json.dumps(value)}`"


def _allowed(info: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(m, name):g}"
        for m in info.metadata
        for name, sign in SIGNS.items()
        if hasattr(m, name)
    ]
    choices = getattr(info.annotation, "__args__", ())
    if not bounds and choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    return " and ".join(bounds)


if __name__ == "__main__":
    print(page(), end="")
