"""A strict reader of our own HTML: every element closed in order, ids and references collected."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """The parsed page; reading fails on an element that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.pointed: set[str] = set()
        self.sources: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        self._note(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        last = self.open.pop()
        assert last == tag, f"</{tag}> closes <{last}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def _note(self, values: dict[str, str]) -> None:
        self.ids += [values["id"]] if "id" in values else []
        self.pointed |= set(values.get("aria-labelledby", "").split())
        for key in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            if values.get(key, "").startswith("#"):
                self.pointed.add(values[key][1:])
            elif key in values:
                self.sources.append(values[key])
        for value in values.values():
            self.pointed |= set(re.findall(r"url\(#([^)]+)\)", value))

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [values for _, values in self.tags if name in values.get("class", "").split()]
