"""Rules of cross-origin requests, as boto has them."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element

from mimicfs.s3.documents import tag

_Names = str | Iterable[str] | None


class CORSRule:
    def __init__(
        self,
        allowed_method: list[str] | None = None,
        allowed_origin: list[str] | None = None,
        id: str | None = None,  # noqa: A002 - boto's name
        allowed_header: list[str] | None = None,
        max_age_seconds: int | None = None,
        expose_header: list[str] | None = None,
    ) -> None:
        self.allowed_method = allowed_method or []
        self.allowed_origin = allowed_origin or []
        self.id = id
        self.allowed_header = allowed_header or []
        self.max_age_seconds = max_age_seconds
        self.expose_header = expose_header or []

    @classmethod
    def of(cls, element: Element) -> CORSRule:
        def texts(name: str) -> list[str]:
            return [it.text or "" for it in element.findall(name)]

        seconds = element.findtext("MaxAgeSeconds")
        return cls(
            texts("AllowedMethod"),
            texts("AllowedOrigin"),
            element.findtext("ID"),
            texts("AllowedHeader"),
            int(seconds) if seconds else None,
            texts("ExposeHeader"),
        )

    def __repr__(self) -> str:
        return f"<Rule: {self.id}>"

    def to_xml(self) -> str:
        parts = [
            *(tag("AllowedMethod", it) for it in self.allowed_method),
            *(tag("AllowedOrigin", it) for it in self.allowed_origin),
            *(tag("AllowedHeader", it) for it in self.allowed_header),
            *(tag("ExposeHeader", it) for it in self.expose_header),
            tag("MaxAgeSeconds", self.max_age_seconds or None),
            tag("ID", self.id or None),
        ]
        return f"<CORSRule>{''.join(parts)}</CORSRule>"


class CORSConfiguration(list[CORSRule]):
    @classmethod
    def of(cls, root: Element) -> CORSConfiguration:
        return cls(CORSRule.of(it) for it in root.findall("CORSRule"))

    def add_rule(
        self,
        allowed_method: _Names,
        allowed_origin: _Names,
        id: str | None = None,  # noqa: A002 - boto's name
        allowed_header: _Names = None,
        max_age_seconds: int | None = None,
        expose_header: _Names = None,
    ) -> None:
        """Add a rule. Each of its values may be one name, or a list of names."""
        methods, origins = _listed(allowed_method), _listed(allowed_origin)
        headers, exposed = _listed(allowed_header), _listed(expose_header)
        self.append(CORSRule(methods, origins, id, headers, max_age_seconds, exposed))

    def to_xml(self) -> str:
        return f"<CORSConfiguration>{''.join(it.to_xml() for it in self)}</CORSConfiguration>"


def _listed(names: _Names) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)
