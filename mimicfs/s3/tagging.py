"""Tags of a bucket, as boto has them."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mimicfs.s3.documents import tag


class Tag:
    def __init__(self, key: str | None = None, value: str | None = None) -> None:
        self.key = key
        self.value = value

    def to_xml(self) -> str:
        return f"<Tag>{tag('Key', self.key)}{tag('Value', self.value)}</Tag>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tag) and (self.key, self.value) == (other.key, other.value)

    def __hash__(self) -> int:
        return hash((self.key, self.value))


class TagSet(list[Tag]):
    def add_tag(self, key: str, value: str) -> None:
        self.append(Tag(key, value))

    def to_xml(self) -> str:
        return f"<TagSet>{''.join(it.to_xml() for it in self)}</TagSet>"


class Tags(list[TagSet]):
    """The tags of a bucket: one TagSet."""

    @classmethod
    def of(cls, root: Element) -> Tags:
        found = root.findall("TagSet/Tag")
        return cls([TagSet(Tag(it.findtext("Key"), it.findtext("Value", "")) for it in found)])

    def add_tag_set(self, tag_set: TagSet) -> None:
        self.append(tag_set)

    def to_xml(self) -> str:
        return f"<Tagging>{''.join(it.to_xml() for it in self)}</Tagging>"
