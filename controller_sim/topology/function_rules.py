"""The rules of a topology file for functions: users' programs at stage points, and the agents' settings for them.

A program is a file beside the topology (`source`, `object`), the name of one in the hosts' own folder (`file`), or a
process on the hosts (`process`: its user).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias, get_args, get_type_hints

from controller_sim.topology.fields import add, name_of, optional
from controller_sim.topology.model import Function, FunctionSettings
from controller_sim.topology.reader import Reader
from protocol import documents
from protocol.function_rules import check_functions

Files: TypeAlias = Callable[[str], bytes]
"""Returns the content of a file that a topology names, or raises OSError."""

POINTS: tuple[str, ...] = get_args(get_type_hints(documents.Function)["point"])
FORMS = documents.FunctionProgram.__struct_fields__
HELD = ("file", "process")
"""The forms of which the topology has no content: hosts have the file, and the process."""
ON_FAULT = ("open", "closed")


@dataclass(frozen=True, slots=True)
class Known:
    """What functions may refer to: `ids` by the field of a scope, and the VPC of each network."""

    hosts: Collection[str]
    ids: Mapping[str, Collection[str]]
    vpc_of: Mapping[str, str]


def settings_of(agents: Reader) -> FunctionSettings:
    """Return the agents' settings for functions; the forms that they accept are none where nothing is written."""
    if agents.take("functions", object, "a map", None) is None:
        return FunctionSettings()
    line = agents.line_of("functions")
    reader = Reader(agents.node["functions"], "agents.functions", line, agents.mistakes)
    if not reader.is_map():
        return FunctionSettings()
    accept = _names(reader, "accept", f"a list of {', '.join(FORMS)}")
    for form in accept:
        if form not in FORMS:
            reader.wrong(f"{form!r} is none of {', '.join(FORMS)}", "accept")
    folder = reader.text("folder", "an absolute path", "") or ""
    if "file" in accept and not folder.startswith("/"):
        reader.wrong("name the hosts' folder of functions by an absolute path, or remove file from accept", "folder")
    host_wide = _names(reader, "host_wide", "a list of documents' names")
    reader.finish()
    return FunctionSettings(accept, folder, host_wide)


def functions_of(root: Reader, files: Files, settings: FunctionSettings, known: Known) -> dict[str, Function]:
    """Return the functions, whose programs the agents' settings must accept."""
    functions: dict[str, Function] = {}
    for reader in root.items("functions"):
        if not reader.is_map():
            continue
        before = len(reader.mistakes)
        name = name_of(reader)
        function = _function(reader, name or "", files)
        _check_references(reader, function, known)
        _check_hosts(reader, function, known.hosts)
        reader.finish()
        if len(reader.mistakes) == before:
            _check_document(reader, function)
            _check_accepted(reader, function, settings)
            add(reader, functions, name, function)
    return functions


def _function(reader: Reader, name: str, files: Files) -> Function:
    form, path = _program(reader)
    scope = _scope(reader)
    point = reader.text("point", f"one of {', '.join(POINTS)}")
    if point is not None and point not in POINTS:
        reader.wrong(f"{point!r} is not a stage point: they are {', '.join(POINTS)}", "point")
    on_fault = reader.text("on_fault", " or ".join(ON_FAULT), ON_FAULT[0])
    if on_fault not in ON_FAULT:
        reader.wrong(f"{on_fault!r} is not {' or '.join(ON_FAULT)}", "on_fault")
    return Function(
        name,
        point or "",
        form,
        path,
        _content(reader, form, path, files),
        reader.text("vpc", "a VPC's name", "") or "",
        scope,
        _names(reader, "hosts", "a list of hosts"),
        reader.number("order", 0, 1000, 0),
        bytes.fromhex(optional(reader, "configuration", _hexadecimal, "hexadecimal digits") or ""),
        on_fault or ON_FAULT[0],
        reader.number("queues", 1, documents.MAX_QUEUES, 1) if form == "process" else 1,
        _names(reader, "reasons", "a list of reasons for drops") if form == "process" else (),
        reader.flag("handed") if form == "process" else False,
    )


def _program(reader: Reader) -> tuple[str, str]:
    """Return the form of a program and its file, or the user of a process."""
    named = {form: "a user of the hosts" if form == "process" else "the name of a file" for form in FORMS}
    given = {form: path for form, wanted in named.items() if (path := reader.text(form, wanted, None)) is not None}
    if len(given) != 1:
        said = f"not {' and '.join(given)}" if given else "this function has no program"
        reader.wrong(f"write one of {', '.join(FORMS)}: {said}", list(given)[1] if len(given) > 1 else None)
        return FORMS[0], ""
    ((form, path),) = given.items()
    return form, path


def _content(reader: Reader, form: str, path: str, files: Files) -> bytes:
    """Return the content of a file beside the topology; nothing of what hosts have."""
    if form in HELD or not path:
        return b""
    try:
        content = files(path)
        if form == "source":
            content.decode()
    except OSError as error:
        reader.wrong(f"cannot read {path}: {error.strerror or error}", form)
        return b""
    except UnicodeDecodeError:
        reader.wrong(f"{path} is not a text: a C source is UTF-8, and an object file is given as `object`", form)
        return b""
    return content


def _scope(reader: Reader) -> dict[str, tuple[str, ...]]:
    if reader.take("scope", object, "a map", None) is None:
        return {}
    inner = Reader(reader.node["scope"], f"{reader.path}.scope", reader.line_of("scope"), reader.mistakes)
    if not inner.is_map():
        return {}
    kinds = documents.FunctionScope.__struct_fields__
    found = {kind: names for kind in kinds if (names := _names(inner, kind, f"a list of {kind}"))}
    inner.finish()
    return found


def _check_references(reader: Reader, function: Function, known: Known) -> None:
    if function.vpc and function.vpc not in known.ids["vpcs"]:
        reader.wrong(f"there is no VPC {function.vpc!r}", "vpc")
    for kind, names in function.scope.items():
        for name in names:
            if name not in known.ids[kind]:
                reader.wrong(f"{kind}: there is no {kind.removesuffix('s')} {name!r}", "scope")
    for network in function.scope.get("networks", ()):
        vpc = known.vpc_of.get(network, function.vpc)
        if function.vpc not in ("", vpc):
            reader.wrong(f"network {network} is in VPC {vpc}, not in {function.vpc}", "scope")


def _check_hosts(reader: Reader, function: Function, hosts: Collection[str]) -> None:
    for host in function.hosts:
        if host not in hosts:
            reader.wrong(f"there is no host {host!r} with an agent: hosts are {', '.join(hosts) or 'none'}", "hosts")


def _check_document(reader: Reader, function: Function) -> None:
    """Hold a function against the rules of documents, which name the field below `functions[0]`."""
    for error in check_functions((function.document(),)):
        inside = re.sub(r"\[\d+\]", "", error.path.partition(".")[2]).split(".")
        field = next((one for one in reversed(inside) if one in reader.node), inside[0])
        reader.wrong(error.message, field)


def _check_accepted(reader: Reader, function: Function, settings: FunctionSettings) -> None:
    if function.form not in settings.accept:
        reader.wrong(f"the agents accept no {function.form}: add it to agents.functions.accept", function.form)


def _names(reader: Reader, key: str, wanted: str) -> tuple[str, ...]:
    if reader.take(key, list, wanted, None) is None:
        return ()
    return tuple(reader.names(key))


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"{text!r} is not hexadecimal: write two digits for each byte") from None
