"""Reads a configuration file: YAML with line numbers, ${NAME} taken from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

FILE_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 12
# Aliases can repeat a part many times over: this bounds what they unfold to.
NODE_COUNT_MAX = 100_000

_STANDARD_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the YAML reader quotes back: more than a character or two of it could be part of a secret.
_QUOTED = re.compile(r"'(?!<)[^']{3,}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands: line and column count from 1; the path is like `clusters[1].authType`."""

    line: int
    column: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong at a place, and what would be right."""

    place: Place
    text: str

    def render(self, *, file_name: str) -> str:
        where = f"{file_name}:{self.place.line}:{self.place.column}"
        return f"{where}: {self.place.path}: {self.text}" if self.place.path else f"{where}: {self.text}"


class ConfigurationError(ValueError):
    """The file was refused and nothing was imported; holds every problem found, in the file's order."""

    def __init__(self, *, file_name: str, problems: list[Problem]) -> None:
        ordered = sorted(problems, key=lambda problem: (problem.place.line, problem.place.column))
        self.lines = tuple(problem.render(file_name=file_name) for problem in ordered)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """One value as text. It may hold a secret, so its repr does not show it."""

    place: Place
    written: str = field(repr=False)
    text: str = field(repr=False)
    is_null: bool
    missing: tuple[str, ...]

    @property
    def is_from_environment(self) -> bool:
        return self.written != self.text or bool(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    place: Place
    items: tuple["Item", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    place: Place
    entries: Mapping[str, "Entry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A member of a section; its place is its key's."""

    place: Place
    value: "Item"


Item = Scalar | Listing | Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    root: Section
    problems: tuple[Problem, ...]


def read_document(*, content: bytes, file_name: str, environment: Mapping[str, str]) -> Document:
    """Parse a whole file; raises ConfigurationError where there is no tree to go on with.

    Double keys, tags and malformed ${...} are collected in `problems` instead. `$${` writes a plain `${`.
    """
    start = Place(line=1, column=1, path="")
    if len(content) > FILE_BYTES_MAX:
        problem = Problem(place=start, text=f"the file is over {FILE_BYTES_MAX} bytes; split it")
        raise ConfigurationError(file_name=file_name, problems=[problem])
    try:
        node = _compose(content.decode("utf-8"))
        reading = _Reading(environment=environment)
        root = reading.item(node, path="", depth=0) if node is not None else None
    except (UnicodeDecodeError, YAMLError, RecursionError, _TooLargeError) as error:
        raise ConfigurationError(file_name=file_name, problems=[_syntax_problem(error)]) from None
    if not isinstance(root, Section):
        text = "found no sections; write server, router, clusters, externalProviders or routes"
        raise ConfigurationError(file_name=file_name, problems=[Problem(place=start, text=text)])
    return Document(root=root, problems=tuple(reading.problems))


class _TooLargeError(Exception):
    """Aliases unfold to more than NODE_COUNT_MAX values or deeper than DEPTH_MAX."""

    def __init__(self, *, place: Place, text: str) -> None:
        super().__init__(text)
        self.place = place


class _Reading:
    """Turns the YAML reader's nodes into ours, counting them and collecting problems on the way."""

    def __init__(self, *, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._node_count = 0
        self._anchors: dict[str, Node] = {}
        self.problems: list[Problem] = []

    def item(self, node: Node, *, path: str, depth: int) -> Item:
        place = _place(node, path)
        self._node_count += 1
        if self._node_count > NODE_COUNT_MAX:
            raise _TooLargeError(place=place, text=f"the file unfolds to over {NODE_COUNT_MAX} values")
        if depth > DEPTH_MAX:
            raise _TooLargeError(place=place, text=f"nested over {DEPTH_MAX} levels deep")
        self._check_tag_and_anchor(node, place=place)
        if isinstance(node, ScalarNode):
            return self._scalar(node, place=place)
        if isinstance(node, MappingNode):
            return Section(place=place, entries=self._entries(node, path=path, depth=depth))
        items = [
            self.item(child, path=f"{path}[{index}]", depth=depth + 1)
            for index, child in enumerate(node.value)
        ]
        return Listing(place=place, items=tuple(items))

    def _check_tag_and_anchor(self, node: Node, *, place: Place) -> None:
        if not str(node.tag).startswith(_STANDARD_TAG):
            text = "found a YAML tag (!…); write a plain value, and quotes around one that begins with !"
            self._problem(place, text)
        if node.anchor and self._anchors.setdefault(node.anchor, node) is not node:
            first = self._anchors[node.anchor].start_mark.line + 1
            self._problem(place, f"the anchor &{node.anchor} stands on line {first} already; rename one")

    def _scalar(self, node: ScalarNode, *, place: Place) -> Scalar:
        written = str(node.value)
        missing: list[str] = []

        def expand(match: re.Match[str]) -> str:
            name, end = match.groups()
            if name is None:
                return "${"
            if not end or not _VARIABLE_NAME.fullmatch(name):
                self._problem(place, "found ${…} without a name; write ${NAME}, or $${ for a plain ${")
            elif not self._environment.get(name):
                missing.append(name)  # an empty one counts as not set: nothing here may be empty
            return self._environment.get(name, "")

        return Scalar(
            place=place,
            written=written,
            text=_VARIABLE.sub(expand, written),
            is_null=str(node.tag) == f"{_STANDARD_TAG}null" and node.style is None,
            missing=tuple(missing),
        )

    def _entries(self, node: MappingNode, *, path: str, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        inherited: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem(_place(key_node, path), "found a list or section as a key; write a name")
                continue
            key = str(key_node.value)
            key_path = f"{path}.{key}" if path else key
            if str(key_node.tag) == f"{_STANDARD_TAG}merge":
                for name, entry in self._merged(value_node, path=path, depth=depth).items():
                    inherited.setdefault(name, entry)
                continue
            place = _place(key_node, key_path)
            if key in entries:
                first = entries[key].place.line
                self._problem(place, f"stands on line {first} already; write each key once")
                continue
            value = self.item(value_node, path=key_path, depth=depth + 1)
            entries[key] = Entry(place=place, value=value)
        return {**inherited, **entries}

    def _merged(self, node: Node, *, path: str, depth: int) -> dict[str, Entry]:
        """What `<<: *name` or `<<: [*name, *other]` brings; the first one named wins."""
        sources = [node] if isinstance(node, MappingNode) else node.value
        merged: dict[str, Entry] = {}
        for source in sources if isinstance(sources, list) else []:
            item = self.item(source, path=path, depth=depth + 1)
            if isinstance(item, Section):
                merged = {**item.entries, **merged}
        if not merged:
            self._problem(_place(node, path), "found << without a section; write << : *name of an anchor")
        return merged

    def _problem(self, place: Place, text: str) -> None:
        self.problems.append(Problem(place=place, text=text))


def _compose(text: str) -> Node | None:
    yaml = YAML(typ="rt", pure=True)
    yaml.max_depth = DEPTH_MAX
    yaml.composer.warn_double_anchors = False  # we refuse them, with the line
    node: Node | None = yaml.compose(text)
    return node


def _place(node: Node, path: str) -> Place:
    return Place(line=node.start_mark.line + 1, column=node.start_mark.column + 1, path=path)


def _syntax_problem(error: Exception) -> Problem:
    """The reader's words without its excerpt of the file, which may show a secret."""
    if isinstance(error, _TooLargeError):
        return Problem(place=error.place, text=f"{error}; make it smaller")
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = Place(line=mark.line + 1, column=mark.column + 1, path="")
        words = _QUOTED.sub("'…'", str(error.problem or error.context))
        return Problem(
            place=place, text=f"this is not YAML: {words}; a value with special characters needs quotes"
        )
    place = Place(line=1, column=1, path="")
    if isinstance(error, RecursionError):
        return Problem(place=place, text=f"nested over {DEPTH_MAX} levels deep; make it flatter")
    if isinstance(error, ReaderError):
        return Problem(
            place=place, text=f"character {error.position} of the file is not allowed in YAML; remove it"
        )
    return Problem(place=place, text="this is not UTF-8 text; save the file as UTF-8")
