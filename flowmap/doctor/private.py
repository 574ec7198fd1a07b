"""What is nobody's business taken out of a text that will be pasted somewhere: the home folder's name, and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LONG = 6  # characters; a shorter one would be found within words


def cleaned(value: Any) -> Any:
    """`value`, of JSON's kinds and paths, with `~` for the home folder and nothing of what secret variables hold."""
    if isinstance(value, Mapping):
        return {str(key): cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(inner) for inner in value]
    return _text(str(value)) if isinstance(value, str | Path) else value


def _text(text: str) -> str:
    secrets = [held for name, held in os.environ.items() if _SECRET.search(name) and len(held) >= _LONG]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    home = os.path.expanduser("~")
    if len(Path(home).parts) > 1:
        text = re.sub(rf"{re.escape(home.rstrip('/'))}(?![\w.-])", "~", text)
    return text
