"""Where the parts of this project lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
