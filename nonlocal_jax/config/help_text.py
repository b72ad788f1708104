"""The text of `--help`, as wide as the terminal."""

import inspect
import shutil
import textwrap
from typing import Any

from absl import flags

from nonlocal_jax.config import describe, schema

NARROWEST, WIDEST = 40, 100


def manual(doc: str, values: flags.FlagValues, config: schema.Run | None) -> str:
    """What a command does, its flags, and the settings of a config.

    Args:
      doc: the docstring of the command's module.
      values: its flags.
      config: whose settings are listed; None for a command that takes no config.
    """
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    parts = [_paragraphs(doc, width), "Flags:", _flags(values, width)]
    if config is not None:
        parts += ["Settings, which --config.KEY=VALUE changes:", _settings(config, width)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraphs(doc: str, width: int) -> str:
    """The docstring, wrapped; lines that are indented are commands, and stay lines."""
    paragraphs = inspect.cleandoc(doc).replace("\\\n", "").split("\n\n")
    return "\n\n".join(
        "\n".join(_command(line, width) for line in paragraph.splitlines())
        if paragraph.startswith(" ")
        else textwrap.fill(paragraph, width)
        for paragraph in paragraphs
    )


def _command(line: str, width: int) -> str:
    """A command, wrapped with backslashes if it is too long."""
    indent = " " * (len(line) - len(line.lstrip()))
    parts = textwrap.wrap(
        " ".join(line.split()),
        width - len(" \\"),
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return " \\\n".join(parts)


def _flags(values: flags.FlagValues, width: int) -> str:
    entries = []
    for name in sorted(values):
        flag = values[name]
        if str(flag.help).startswith("Alias for "):  # absl's, of DEFINE_alias
            continue
        form = f"--[no]{name}" if flag.boolean else f"--{name}=VALUE"
        default = "" if flag.default in (None, False, "", []) else f" (default: {_plain(flag)})"
        entries.append(_entry(f"  {form}", f"{flag.help}{default}", width))
    entries.append(_entry("  --help, -h", "This text.", width))
    return "\n".join(entries)


def _plain(flag: flags.Flag[Any]) -> str:
    return ",".join(map(str, flag.default)) if isinstance(flag.default, list) else str(flag.default)


def _settings(config: schema.Run, width: int) -> str:
    entries = []
    for setting in describe.settings(config):
        if setting.is_section:
            entries.append("\n" + _entry(f"  {setting.key}", setting.doc, width))
        else:
            text = " ".join(filter(None, [setting.doc, f"[{setting.allowed}]"]))
            entries.append(_entry(f"  {setting.key}={_value(setting.value)}", text, width))
    return "\n".join(entries)


def _value(value: object) -> str:
    """A setting's value as it is typed in."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _entry(head: str, text: str, width: int) -> str:
    """A line with a name, and below it, indented, its meaning."""
    return f"{head}\n" + textwrap.fill(
        text, width, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
