"""For mkdocs: links out of docs/ (../README.md, ../deploy/grafana.json) lead nowhere on the site,
where these files are not. They become text; each is checked to be there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)\s]*)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return *markdown* without links out of the documents. Raises FileNotFoundError."""
    here = (_ROOT / "docs" / page.file.src_path).parent

    def text_of(found: re.Match[str]) -> str:
        path = (here / found[2].partition("#")[0]).resolve()
        if path.is_relative_to(_ROOT / "docs"):
            return found[0]
        if not path.exists():
            raise FileNotFoundError(f"{page.file.src_path}: {found[2]}")
        return found[1]

    return _LINK.sub(text_of, markdown)
