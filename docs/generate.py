"""Write docs/reference/ from the code: `python docs/generate.py`, or with `--check` only compare.

- cli.md: every verb with its arguments and options, as `--help` has them.
- configuration.md: every key of the configuration files, its default and its docstring, and the presets.
- python.md: the public classes and functions, with their docstrings.

`tests/test_docs.py` compares, so that these pages cannot fall behind the code.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py: change the code instead. -->\n\n"


def main() -> None:
    pages = {"cli.md": cli(), "configuration.md": configuration(), "python.md": python()}
    stale = []
    for name, text in pages.items():
        file = REFERENCE / name
        if "--check" in sys.argv:
            stale += [name] if not file.exists() or file.read_text(encoding="utf-8") != text else []
            continue
        REFERENCE.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    if stale:
        raise SystemExit(f"{', '.join(stale)} in {REFERENCE} differ from the code: run `python docs/generate.py`.")


# ---- The commands


def cli() -> str:
    """Every verb."""
    import typer

    from musicldm.cli.app import app

    root: Any = typer.main.get_command(app)
    parts = [
        NOTE + "# Commands\n",
        "Results are written to stdout, everything else to stderr. The exit code is 0 when the work is done, 1 when it "
        "failed, 2 when the command was used wrongly, and 130 when it was interrupted.\n",
    ]
    parts += [
        section(f"{verb} {name}".strip(), command)
        for verb, group in root.commands.items()
        for name, command in (getattr(group, "commands", None) or {"": group}).items()
    ]
    return "\n".join(parts)


def section(name: str, command: Any) -> str:
    """One verb."""
    arguments = [each for each in command.params if each.name and each.opts == [each.name]]
    options = [each for each in command.params if each not in arguments and not each.hidden]
    usage = " ".join(["musicldm", name, "[OPTIONS]", *map(metavar, arguments)])
    lines = [f"## {name}\n", f"{plain(command.help or '')}\n", f"```\n{usage}\n```\n"]
    panels = {"Argument": arguments}
    for option in options:
        panels.setdefault(option.rich_help_panel or "Option", []).append(option)
    for title, parameters in panels.items():
        if parameters:
            lines += [f"| {plain(title)} | | Default |", "|---|---|---|", *map(row, parameters), ""]
    if command.epilog:
        lines.append(f"{plain(command.epilog)}\n")
    return "\n".join(lines)


def metavar(parameter: Any) -> str:
    """What stands for a value."""
    choices = typing.get_args(parameter.type_descriptor.annotation)
    if typing.get_origin(parameter.type_descriptor.annotation) is typing.Literal:
        return "|".join(map(str, choices))
    name = parameter.metavar or (parameter.name.upper() if parameter.opts == [parameter.name] else "")
    return str(name) + ("…" if parameter.nargs == -1 and not str(name).endswith("...") else "")


def row(parameter: Any) -> str:
    """Of a table of parameters."""
    names = escaped(metavar(parameter))
    if parameter.opts != [parameter.name]:
        spelled = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        names = f"{spelled} {'' if parameter.is_flag else names}".strip()
    default = parameter.default
    if isinstance(parameter.show_default, str):
        shown = parameter.show_default
    elif parameter.required:
        shown = "required"
    elif default is None or default == [] or callable(default) or parameter.show_default is False:
        shown = ""
    elif isinstance(default, bool):
        shown = "on" if default else ""
    elif isinstance(default, (tuple, list)):
        shown = " ".join(map(str, default))
    else:
        shown = str(default)
    return f"| {names} | {plain(parameter.help or '')} | {escaped(shown)} |"


def plain(text: str) -> str:
    """Help without typer's marks."""
    return escaped(re.sub(r"\s+", " ", text.replace("\b", "")).strip())


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# ---- The configuration files


def configuration() -> str:
    """Every key of every run's configuration."""
    from musicldm.codecs.base import CODECS
    from musicldm.core.config import presets
    from musicldm.generators.base import GENERATORS

    parts = [
        NOTE + "# Configuration files\n",
        "`--config FILE.toml` takes these keys, table by table. What a file leaves out is as the preset has it, what a "
        "preset leaves out is the default below, and options of the command line win over both.\n",
    ]
    for registry in (CODECS, GENERATORS):
        for name in registry.names():
            family = registry.load(name)
            names = ", ".join(f"`{preset}`" for preset in presets(family.package))
            parts.append(f"## {registry.kind.capitalize()} `{name}`\n\nPresets: {names}.\n")
            parts += tables("", family.run_config)
    return "\n".join(parts)


def tables(name: str, cls: Any) -> Iterator[str]:
    """A table for a dataclass, and those of the dataclasses in it."""
    said, hints = docstrings(cls), typing.get_type_hints(cls)
    rows, inner = [], []
    for field in dataclasses.fields(cls):
        nested = [
            each for each in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(each)
        ]
        if nested:
            inner.append((f"{name}.{field.name}".strip("."), nested[0]))
            continue
        default = "required" if field.default is dataclasses.MISSING else toml(field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = toml(field.default_factory())
        rows.append(f"| `{field.name}` | {plain(said.get(field.name, ''))} | {escaped(default)} |")
    if rows:
        title = f"### `[{name}]`\n" if name else "### At the head of the file\n"
        yield "\n".join([title, "| Key | | Default |", "|---|---|---|", *rows, ""])
    for path, each in inner:
        if path != "plan":  # what a memory plan notes down for itself
            yield from tables(path, each)


def docstrings(cls: type) -> dict[str, str]:
    """The string below each field, which Python itself throws away."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = ast.literal_eval(text.value)
    return found


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else "none" if value is None else str(value)


# ---- Python


def python() -> str:
    """The public names of the package, and those of the tasks of sampling."""
    import musicldm
    import musicldm.sampling

    parts = [NOTE + "# Python\n", "What `import musicldm` offers. The verbs are built of nothing else.\n"]
    for name in sorted(set(musicldm.__all__) - {"__version__"}):
        parts.append(documented(f"musicldm.{name}", getattr(musicldm, name)))
    parts.append("# Tasks of `Pipeline.sample`\n")
    for name in musicldm.sampling.__all__:
        if name not in musicldm.__all__:
            parts.append(documented(f"musicldm.sampling.{name}", getattr(musicldm.sampling, name)))
    return "\n".join(parts)


def documented(name: str, thing: Any) -> str:
    """A class with its public methods, or a function."""
    lines = [f"## `{name}`\n", f"```python\n{signature(name.rpartition('.')[2], thing)}\n```\n", block(thing)]
    if inspect.isclass(thing):
        for method, member in vars(thing).items():
            function = getattr(member, "__func__", member)
            if method.startswith("_") or not (inspect.isfunction(function) or isinstance(member, property)):
                continue
            function = function.fget if isinstance(function, property) else function
            if inspect.getdoc(function):
                shown = method if isinstance(member, property) else signature(method, function)
                lines += [f"### `{method}`\n", f"```python\n{shown}\n```\n", block(function)]
    return "\n".join(lines)


def signature(name: str, thing: Any) -> str:
    try:
        text = f"{name}{inspect.signature(thing)}"
    except (TypeError, ValueError):
        return name
    return re.sub(r"<(?:function )?(\w[\w.]*)[^<>]* at 0x\w+>", r"\1", text).replace("'", "")


def block(thing: Any) -> str:
    """A docstring, whose sections become lists."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"^(Args|Raises|Returns|Yields|Attributes):\n", r"**\1**\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\w[\w., ]*): ", r"- `\1`: ", text, flags=re.MULTILINE)
    return text + "\n"


if __name__ == "__main__":
    main()
