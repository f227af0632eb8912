"""Lifecycle rules of a bucket, as boto has them."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mimicfs.s3.documents import tag


class Expiration:
    """The time at which objects are deleted: after *days*, or at *date* (ISO 8601)."""

    def __init__(self, days: int | None = None, date: str | None = None) -> None:
        self.days = days
        self.date = date

    @classmethod
    def of(cls, element: Element) -> Expiration:
        return cls(*_when(element))

    def __repr__(self) -> str:
        return f"<Expiration: {_said(self)}>"

    def to_xml(self) -> str:
        return f"<Expiration>{_when_xml(self)}</Expiration>"


class Transition:
    """The time at which objects get *storage_class*."""

    def __init__(
        self, days: int | None = None, date: str | None = None, storage_class: str | None = None
    ) -> None:
        self.days = days
        self.date = date
        self.storage_class = storage_class

    @classmethod
    def of(cls, element: Element) -> Transition:
        return cls(*_when(element), element.findtext("StorageClass"))

    def __repr__(self) -> str:
        return f"<Transition: {_said(self)}, {self.storage_class}>"

    def to_xml(self) -> str:
        return (
            f"<Transition>{tag('StorageClass', self.storage_class)}{_when_xml(self)}</Transition>"
        )


class Transitions(list[Transition]):
    """The transitions of a rule. Their *days*, *date* and *storage_class* are those of the
    first."""

    def add_transition(
        self, days: int | None = None, date: str | None = None, storage_class: str | None = None
    ) -> None:
        self.append(Transition(days, date, storage_class))

    def to_xml(self) -> str:
        return "".join(it.to_xml() for it in self)

    @property
    def days(self) -> int | None:
        return self[0].days if self else None

    @property
    def date(self) -> str | None:
        return self[0].date if self else None

    @property
    def storage_class(self) -> str | None:
        return self[0].storage_class if self else None


class Rule:
    """A rule of the lifecycle. *expiration* is an Expiration, or a number of days."""

    def __init__(
        self,
        id: str | None = None,  # noqa: A002 - boto's name
        prefix: str | None = None,
        status: str | None = None,
        expiration: Expiration | int | None = None,
        transition: Transition | Transitions | None = None,
    ) -> None:
        self.id = id
        self.prefix = prefix or ""
        self.status = status
        self.expiration = Expiration(expiration) if isinstance(expiration, int) else expiration
        if isinstance(transition, Transition):
            transition = Transitions([transition])
        self.transition = transition or Transitions()

    @classmethod
    def of(cls, element: Element) -> Rule:
        prefix = element.findtext("Prefix") or element.findtext("Filter/Prefix")
        end = element.find("Expiration")
        return cls(
            element.findtext("ID"),
            prefix,
            element.findtext("Status"),
            Expiration.of(end) if end is not None else None,
            Transitions(Transition.of(it) for it in element.findall("Transition")),
        )

    def __repr__(self) -> str:
        return f"<Rule: {self.id}>"

    def to_xml(self) -> str:
        parts = [tag("ID", self.id), tag("Prefix", self.prefix), tag("Status", self.status)]
        parts += [self.expiration.to_xml()] if self.expiration is not None else []
        return f"<Rule>{''.join(parts)}{self.transition.to_xml()}</Rule>"


class Lifecycle(list[Rule]):
    @classmethod
    def of(cls, root: Element) -> Lifecycle:
        return cls(Rule.of(it) for it in root.findall("Rule"))

    def add_rule(
        self,
        id: str | None = None,  # noqa: A002 - boto's name
        prefix: str = "",
        status: str = "Enabled",
        expiration: Expiration | int | None = None,
        transition: Transition | Transitions | None = None,
    ) -> None:
        self.append(Rule(id, prefix, status, expiration, transition))

    def to_xml(self) -> str:
        rules = "".join(it.to_xml() for it in self)
        return f"<LifecycleConfiguration>{rules}</LifecycleConfiguration>"


def _when(element: Element) -> tuple[int | None, str | None]:
    days = element.findtext("Days")
    return int(days) if days else None, element.findtext("Date")


def _when_xml(when: Expiration | Transition) -> str:
    return tag("Days", when.days) or tag("Date", when.date)


def _said(when: Expiration | Transition) -> str:
    return f"on: {when.date}" if when.days is None else f"in: {when.days} days"
