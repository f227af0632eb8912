"""XML documents of S3, as programs of boto give and take them, and their form as parameters of
boto3.

botocore's model says what a document contains: one pair of functions serves all of them. Pure
functions; any thread may call them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement
from xml.sax.saxutils import escape

from mimicfs.exception import S3ResponseError
from mimicfs.s3.boto2 import listed_time

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_Shape = Any  # of botocore's model
_PARSED: dict[str, Callable[[str], Any]] = {
    "integer": int,
    "long": int,
    "boolean": lambda text: text.strip() == "true",
}


def tag(name: str, value: Any) -> str:
    """Return the element *name* with the text *value*; "" if *value* is None."""
    return "" if value is None else f"<{name}>{escape(str(value))}</{name}>"


def parsed(xml: str | bytes) -> Element:
    """Return the root of *xml*, with names without namespaces. Raises S3ResponseError."""
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as exc:
        raise malformed(str(exc)) from exc
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: it for name, it in element.attrib.items()}
    return root


def malformed(why: str) -> S3ResponseError:
    """Return the error with which S3 answers a document that it does not understand."""
    body = f"<Error><Code>MalformedXML</Code><Message>{escape(why)}</Message></Error>"
    return S3ResponseError(400, "Bad Request", body)


def to_params(shape: _Shape, element: Element) -> Any:
    """Return *element*, of *shape*, as a parameter of boto3. Raises S3ResponseError."""
    if shape.type_name == "list":
        return [to_params(shape.member, item) for item in element]
    if shape.type_name == "structure":
        return _structure(shape, element)
    text = element.text or ""
    try:
        return _PARSED.get(shape.type_name, str)(text)
    except ValueError:
        raise malformed(f"{element.tag}: {text}") from None


def _structure(shape: _Shape, element: Element) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known: set[str] = set()
    for name, called, member in _members(shape):
        known.add(called)
        if member.serialization.get("xmlAttribute"):
            found[name] = element.get(called.rpartition(":")[2], "")
            continue
        items = element.findall(called)
        if not items:
            continue
        if member.serialization.get("flattened"):
            found[name] = [to_params(member.member, item) for item in items]
        else:
            found[name] = to_params(member, items[-1])
    for child in element:
        if child.tag not in known:
            raise malformed(f"{element.tag} has no {child.tag}")
    return found


def to_document(root: str, shape: _Shape, value: Any) -> str:
    """Return *value*, an answer or parameter of boto3, as a document."""
    element = Element(root, {"xmlns": NAMESPACE})
    _fill(element, shape, value)
    return _HEAD + ElementTree.tostring(element, encoding="unicode")


def _fill(element: Element, shape: _Shape, value: Any) -> None:
    if shape.type_name == "structure":
        for name, called, member in _members(shape):
            if value.get(name) is not None:
                _add(element, called, member, value[name])
    elif shape.type_name == "boolean":
        element.text = "true" if value else "false"
    elif isinstance(value, datetime):
        element.text = listed_time(value)
    else:
        element.text = str(value)


def _add(element: Element, called: str, shape: _Shape, value: Any) -> None:
    if shape.serialization.get("xmlAttribute"):
        element.set("xmlns:xsi", _XSI)
        element.set(called, value)
        return
    if shape.type_name != "list":
        _fill(SubElement(element, called), shape, value)
        return
    if not shape.serialization.get("flattened"):
        element = SubElement(element, called)
        called = shape.member.serialization.get("name", "member")
    for item in value:
        _fill(SubElement(element, called), shape.member, item)


def _members(shape: _Shape) -> Iterator[tuple[str, str, _Shape]]:
    """Yield the elements that a document of *shape* may have: boto3's name, XML's name and
    shape."""
    for name, member in shape.members.items():
        if "location" not in member.serialization:
            yield name, member.serialization.get("name", name), member
