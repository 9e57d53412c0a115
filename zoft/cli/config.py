"""From ``--config recipe.yaml`` and flags to dataclasses: flags win, and nothing unknown is let through.

A recipe's values pass through the flags' own converters, so the two cannot differ in what they accept.
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from transformers import HfArgumentParser

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.arguments.objective import ObjectiveArguments
from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.arguments.zeroth_order import ZOArguments
from zoft.errors import AssetError, ConfigError, DataError, ZoftError, did_you_mean
from zoft.recipe import format_recipe, read_recipe

__all__ = ["TRAIN_GROUPS", "ParsedArguments", "dump_resolved", "parse_arguments", "parse_cli", "user_errors"]

T = TypeVar("T")

TRAIN_GROUPS: tuple[type[Any], ...] = (
    ModelArguments,
    AdapterArguments,
    DataArguments,
    ObjectiveArguments,
    ZOArguments,
    PrivacyArguments,
    RunArguments,
)

USAGE = "%(prog)s --config RECIPE.yaml [--name value ...]"

ONE_OFF = ("resume", "hub_token")  # belong to one call and who makes it; what is written may be published


@dataclass(frozen=True)
class ParsedArguments:
    """The filled-in dataclasses, and the values that they were made of."""

    instances: tuple[object, ...]
    values: dict[str, Any]  # as given, before any dataclass changed them
    defaults: dict[str, Any]  # what an empty command line gives
    given: frozenset[str]  # names that the recipe or a flag sets, be it to the default

    def get(self, group: type[T]) -> T:
        """Return the instance of one of the argument dataclasses.

        Raises:
            ConfigError: The command does not take this group of arguments.
        """
        for instance in self.instances:
            if type(instance) is group:
                return instance
        raise ConfigError(f"this command takes no {group.__name__}")


@contextmanager
def user_errors(prog: str, *, interrupted: str | None = None) -> Iterator[None]:
    """Turn zoft's own errors into one line on stderr and an exit code: 2 for what the user asked, else 1.

    Args:
        prog: The command's name.
        interrupted: What to say after Ctrl-C, with exit code 130; None leaves that to the caller.
    """
    try:
        yield
    except KeyboardInterrupt:
        if interrupted is None:
            raise
        print(f"\n{prog}: {interrupted}", file=sys.stderr)
        raise SystemExit(130) from None
    except ZoftError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, (ConfigError, DataError, AssetError)) else 1) from None


def parse_cli(
    argv: Sequence[str],
    *,
    prog: str,
    description: str = "",
    groups: Sequence[type[Any]] = TRAIN_GROUPS,
    training: bool = True,
) -> ParsedArguments:
    """Parse a command line as a command's first act: help and errors are printed, and end the process.

    ``--help`` lists the command's own settings without importing torch; ``--help_all`` lists those of
    ``transformers.TrainingArguments`` too.

    Args:
        argv: The arguments, without the command's name.
        prog: The command's name.
        description: One sentence for the help.
        groups: The dataclasses whose fields are flags and YAML keys.
        training: Whether ``transformers.TrainingArguments`` is one of them.

    Raises:
        SystemExit: Code 0 after help, 2 after an error.
    """
    with user_errors(prog):
        if "-h" in argv or "--help" in argv:
            parser = _build_parser(prog, description, groups)
            parser.epilog = "Further flags: every field of transformers.TrainingArguments (see --help_all)."
            if not training:
                parser.epilog = None
            parser.print_help()
            raise SystemExit(0)
        if "--help_all" in argv:
            _build_parser(prog, description, _with_training(groups, training)).print_help()
            raise SystemExit(0)
        return parse_arguments(argv, prog=prog, description=description, groups=groups, training=training)


def parse_arguments(
    argv: Sequence[str],
    *,
    prog: str = "zoft",
    description: str = "",
    groups: Sequence[type[Any]] = TRAIN_GROUPS,
    training: bool = True,
) -> ParsedArguments:
    """Parse a command line, as `parse_cli`, but raise what is wrong with it.

    Raises:
        ConfigError: An unknown flag or key, a value of the wrong type, a recipe that cannot be read, or a
            combination that ``transformers.TrainingArguments`` refuses.
    """
    all_groups = _with_training(groups, training)
    parser = _build_parser(prog, description, all_groups)
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", action="append", default=[])
    files, flags = config.parse_known_args(list(argv))
    defaults = vars(parser.parse_args([]))
    given = {flag[2:].partition("=")[0] for flag in flags if flag.startswith("--")}
    if len(files.config) > 1:
        raise ConfigError(f"--config is given {len(files.config)} times; give one recipe and change it by flags")
    for path in files.config:
        recipe = _recipe_values(path, read_recipe(path), parser, all_groups)
        parser.set_defaults(**recipe)
        given.update(recipe)
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        _refuse(unknown[0], parser)
    values = vars(namespace)
    try:
        instances = tuple(
            group(**{field.name: values[field.name] for field in fields(group) if field.init}) for group in all_groups
        )
    except ConfigError:
        raise
    except ValueError as error:  # settings that contradict each other in TrainingArguments' eyes
        raise ConfigError(str(error)) from error
    return ParsedArguments(instances=instances, values=values, defaults=defaults, given=frozenset(given))


def dump_resolved(
    path: str | Path, parsed: ParsedArguments, resolved: Mapping[str, Any], *, prog: str = "zoft-train"
) -> None:
    """Write what a re-run needs: every setting of ours, and those of TrainingArguments that are not the
    default.

    ``prog --config FILE`` repeats the run. ``resume`` and ``hub_token`` are left out: they belong to one call.

    Args:
        path: The file to write.
        parsed: What the user gave.
        resolved: Settings that were left open and what they became.
        prog: The command that reads the file.
    """
    settings: dict[str, Any] = {}
    for instance in parsed.instances:
        ours = type(instance).__module__.startswith("zoft.")
        for field in fields(instance):  # type: ignore[arg-type]  # every instance is one of a dataclass
            if not field.init or field.name in ONE_OFF:
                continue
            value = resolved.get(field.name, parsed.values[field.name])
            if ours or value != parsed.defaults[field.name]:
                settings[field.name] = _plain(value)
    header = f"# Every setting of one run, flags included. To repeat it: {prog} --config {Path(path).name}\n"
    Path(path).write_text(header + format_recipe(settings), encoding="utf-8")


class _Parser(HfArgumentParser):
    """Raises instead of exiting: `parse_cli` decides how errors are shown."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _with_training(groups: Sequence[type[Any]], training: bool) -> tuple[type[Any], ...]:
    if not training:
        return tuple(groups)
    from transformers import TrainingArguments  # imports torch: seconds that --help does not need

    return (*groups, TrainingArguments)


def _build_parser(prog: str, description: str, groups: Sequence[type[Any]]) -> _Parser:
    dataclasses = typing.cast("Any", groups)
    parser = _Parser(dataclasses, prog=prog, usage=USAGE, description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="RECIPE.yaml", help="A recipe: the same names as the flags; flags win.")
    parser.add_argument("--help_all", action="store_true", help="Also list the flags of TrainingArguments and exit.")
    return parser


def _refuse(argument: str, parser: argparse.ArgumentParser) -> NoReturn:
    if not argument.startswith("-"):
        raise ConfigError(f"unexpected argument {argument!r}; settings are written --name value")
    flag = argument.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    raise ConfigError(f"unknown flag {flag!r}.{did_you_mean(flag, known)}")


def _recipe_values(
    path: str, recipe: dict[str, Any], parser: argparse.ArgumentParser, groups: Sequence[type[Any]]
) -> dict[str, Any]:
    hints = {name: hint for group in groups for name, hint in typing.get_type_hints(group).items()}
    actions = {action.option_strings[0][2:]: action for action in parser._actions}
    known = [field.name for group in groups for field in fields(group) if field.init]
    for key in recipe:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{did_you_mean(key, known)}")
    return {key: _convert(f"{path}: {key}", value, actions[key], hints[key]) for key, value in recipe.items()}


def _convert(where: str, value: object, action: argparse.Action, hint: object) -> Any:
    """Convert one YAML value as the flag of the same name would be."""
    kinds = _members(hint)
    if value is None:
        if type(None) not in kinds:
            raise ConfigError(f"{where}: expected {_expected(action)}, got nothing")
        return None
    if isinstance(value, dict):
        if dict not in kinds:
            raise ConfigError(f"{where}: expected {_expected(action)}, got a mapping")
        return value
    if isinstance(value, list):
        if action.nargs != "+" and list not in kinds:
            raise ConfigError(f"{where}: expected {_expected(action)}, got a list")
        return [_convert_scalar(where, item, action) for item in value]
    converted = _convert_scalar(where, value, action)
    return [converted] if action.nargs == "+" else converted


def _convert_scalar(where: str, value: object, action: argparse.Action) -> Any:
    if not isinstance(value, (str, int, float)):
        raise ConfigError(f"{where}: expected {_expected(action)}, got {value!r} inside a list")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    convert = typing.cast("typing.Callable[[str], Any]", action.type)
    try:
        converted = convert(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        got = repr(value) if isinstance(value, str) else text
        raise ConfigError(f"{where}: expected {_expected(action)}, got {got}") from None
    if action.choices is not None and converted not in action.choices:
        known = [str(choice) for choice in action.choices]
        raise ConfigError(f"{where}: expected {_expected(action)}, got {text!r}.{did_you_mean(text, known)}")
    return converted


def _members(hint: object) -> set[object]:
    """Return the types that a field accepts, bare: {list, NoneType} for ``list[str] | None``."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return {member for argument in typing.get_args(hint) for member in _members(argument)}
    return {origin or hint}


def _expected(action: argparse.Action) -> str:
    if action.choices is not None:
        return "one of " + ", ".join(map(str, action.choices))
    name = {int: "int", float: "float", str: "text"}.get(typing.cast("type", action.type), "true or false")
    return f"a list of {name}" if action.nargs == "+" else name


def _plain(value: Any) -> Any:
    """Reduce enum members to what a recipe writes for them."""
    if isinstance(value, Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, list) else value
