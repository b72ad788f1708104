"""What every command shares: flags, `--config` with overrides, `--help`, and exit codes.

A command's module has

    def define(values: flags.FlagValues) -> None: ...  # its flags, with flag_values=values
    def main(options: Options) -> None: ...

    def run(argv: Sequence[str] | None = None) -> int:
        return command_line.run(main, define, config="required", argv=argv)

    if __name__ == "__main__":
        sys.exit(run())

No flag is absl's global `FLAGS`: each run of a command has its own, so that commands can be
imported and run side by side.

A `main` that uses JAX calls `runtime.startup.use_jax(config.precision)` before anything else.

Exit codes: 0 done, 1 some images could not be used, 2 something a person has to change,
75 preempted and saved, 130 interrupted from the keyboard.
"""

import ast
import gc
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from absl import flags, logging
from ml_collections import ConfigDict, config_dict, config_flags

from nonlocal_jax.config import files, help_text, keys, schema, terminal
from nonlocal_jax.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError

PROCESS_FLAGS = ("coordinator", "num_processes", "process_id", "join_timeout")

Define = Callable[[flags.FlagValues], None]
TakesConfig = Literal["required", "optional", "none"]

_CONFIG_HELP = (
    "A config by name (ade20k_r50_80k) or by path (my/config.py, or the config.json of a run); "
    "NAME:ARGUMENT hands an argument to its get_config(), which is a row of a file of several, as "
    "dnl:ade20k_r50_80k. Change values with --config.KEY=VALUE."
)
_HELP = re.compile(r"--?(h|\?|help|helpfull|helpshort)")
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(=.*)?", re.DOTALL)


class Options:
    """What a command was called with.

    Attributes:
      flags: the command's own flags, as in `options.flags.workdir`.
    """

    def __init__(self, values: flags.FlagValues, overrides: Mapping[str, str]):
        self.flags = values
        self._overrides = dict(overrides)

    @property
    def names_config(self) -> bool:
        """Whether `--config` was given."""
        return "config" in self.flags and bool(self.flags.config)

    @cached_property
    def config(self) -> schema.Run:
        """The config that `--config` names, with the overrides.

        Raises:
          UserError: there is no `--config`, no such file or key, or a value is out of its range.
        """
        if not self.names_config:
            raise UserError(
                "--config is missing: give a file, or one of these names: "
                f"{', '.join(files.names())}."
            )
        return apply_overrides(files.read(self.flags.config), self._overrides)

    def config_over(self, base: Callable[[], schema.Run]) -> schema.Run:
        """The config of `--config` if it was given, else that of `base`; with the overrides on top.

        For commands that find a config elsewhere, in a checkpoint for one.

        Args:
          base: finds the config. It is called only without `--config`.

        Raises:
          UserError: as for `config`, or what `base` raises.
        """
        if self.names_config:
            return self.config
        found = base()
        return apply_overrides(files.to_tree(found), self._overrides) if self._overrides else found

    @property
    def config_name(self) -> str:
        """What to call the config: "ade20k_r50_80k"; for a run's config.json, the run's name.

        A row of a file that has several has both names: "dnl:ade20k_r50_80k".
        """
        text, row = str(self.flags.config), ""
        if not os.path.isfile(text):
            text, _, row = text.partition(":")
        path = files.find(text).resolve()
        if path.suffix == ".json":
            return path.parent.name
        return f"{path.stem}:{row}" if row in files.rows(path) else path.stem

    @property
    def overridden(self) -> frozenset[str]:
        """Keys of the config that the command line gives another value."""
        return frozenset(self._overrides)

    @property
    def processes(self) -> dict[str, Any]:
        """Values of the flags of `define_process_flags`, as `distributed.session` takes them."""
        return {name: self.flags[name].value for name in PROCESS_FLAGS}

    def require(self, *names: str) -> None:
        """Raises a UserError for a flag that was not given."""
        for name in names:
            if not self.flags[name].value:
                told = re.sub(r"^<(.+?)>: (.*)\.$", r"\2, one of \1.", self.flags[name].help)
                raise UserError(f"--{name} is missing: {told} See --help.")


def run(
    main: Callable[[Options], None],
    define: Define = lambda values: None,
    *,
    config: TakesConfig = "none",
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command; a UserError becomes one message.

    Args:
      main: the command. With config="required" or a given `--config`, that is read before.
      define: adds the command's flags to those it is given.
      config: whether the command takes `--config`.
      argv: what follows the command's name; by default that of this process.

    Returns:
      the exit code.
    """
    with terminal.lasting():
        return _run(main, define, config, argv)


def _run(
    main: Callable[[Options], None],
    define: Define,
    config: TakesConfig,
    argv: Sequence[str] | None,
) -> int:
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        options = _parse(words, define, config)
        if options is None:
            sys.stdout.write(_help(words, main, define, config))
            return 0
        if config == "required" or options.names_config:
            _ = options.config
        _set_up()
        main(options)
    except UserError as error:
        sys.stderr.write(f"nonlocal_jax: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        return EXIT_INTERRUPTED
    except OSError as error:  # of a path that no other message is about: too long, say
        if error.filename is None:
            raise
        sys.stderr.write(f"nonlocal_jax: {error.filename} cannot be used: {error.strerror}.\n")
        return EXIT_USER_ERROR
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def apply_overrides(
    given: ConfigDict | Mapping[str, Any], overrides: Mapping[str, str]
) -> schema.Run:
    """A config with what the command line changes.

    Args:
      given: some settings; the others have their defaults.
      overrides: words of the command line by key, {"seed": "--config.seed=3"}.

    Raises:
      UserError: there is no such key, or a value is out of its range.
    """
    values = {key: word.partition("=")[2] for key, word in overrides.items()}
    tree = given.to_dict() if isinstance(given, ConfigDict) else given
    complete = files.complete(tree, files.chosen_names(values))
    whole = ConfigDict(_with_placeholders(complete))
    for key in overrides:
        keys.check(whole, key)
        _check_repeated(key, values[key])
    words = ["", *(_split_texts(w, complete, key) for key, w in overrides.items())]
    parsed = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", whole, flag_values=parsed, sys_argv=words)
        parsed(words)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        for key, word in overrides.items():
            if word in str(error):
                expected = keys.range_of(whole, key)
                raise UserError(
                    f"config.{key} is {values[key]!r}; it must be {expected}."
                ) from error
        raise UserError(f"{error}") from error
    files.check_task(complete, parsed.config.task)
    # A section that was given as a whole may lack some of its settings.
    return files.validate(files.complete(parsed.config.to_dict()))


def _split_texts(word: str, tree: Mapping[str, Any], key: str) -> str:
    """Rewrites the value of "--config.log_to=auto,mlflow" as a Python tuple.

    Other words are returned unchanged.
    """
    if not keys.takes_texts(tree, key):
        return word
    flag, _, value = word.partition("=")
    try:
        given = ast.literal_eval(value)
        if value.strip()[0] in "([" or all(isinstance(text, str) for text in given):
            return word
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        pass  # it is none
    return f"{flag}={tuple(filter(None, map(str.strip, value.split(','))))}"


def _check_repeated(key: str, value: str) -> None:
    """Refuses a mapping with a key that is there more than once: Python takes the last one."""
    try:
        parsed = ast.parse(value.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # a text, or a mistake that is told later
    if isinstance(parsed, ast.Dict):
        entries = [ast.unparse(entry) for entry in parsed.keys if entry]
        repeated = [entry for entry in entries if entries.count(entry) > 1]
        if repeated:
            raise UserError(f"config.{key} is {value!r}, which has {repeated[0]} more than once.")


def _with_placeholders(tree: Any) -> Any:
    """A tree whose Nones can be overridden: by any literal, which is checked later."""
    if isinstance(tree, Mapping):
        return {key: _with_placeholders(value) for key, value in tree.items()}
    return config_dict.placeholder(object) if tree is None else tree


def define_checkpoint_flags(values: flags.FlagValues) -> None:
    """The flags that commands share which take a checkpoint, and average over scales if told to."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "A run's folder, one of its checkpoints, or what `convert` wrote.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "step",
        "",
        "Which checkpoint of a run: best, latest or a number; by default the best by mIoU, else "
        "the latest.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "tta",
        False,
        "Average over the config's scales and mirrored images; of videos, over mirrored views.",
        flag_values=values,
    )


def define_process_flags(values: flags.FlagValues) -> None:
    """The flags of commands that can run as several processes."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0; found out on Cloud TPU, GKE and SLURM.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many processes run this command.", flag_values=values
    )
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_float(
        "join_timeout", 300.0, "Seconds to wait for the other processes.", flag_values=values
    )


def exit_for_bad_images(reasons: Sequence[str], total: int, unit: str = "images") -> None:
    """Lists what was left out, and exits with 1, unless there is nothing."""
    if reasons:
        listed = "".join(f"  {reason}\n" for reason in reasons)
        sys.stderr.write(f"nonlocal_jax: {len(reasons)} of {total} {unit} failed:\n{listed}")
        sys.exit(EXIT_ERROR)


def _parse(words: list[str], define: Define, config: TakesConfig) -> Options | None:
    """The command's options; None if help is asked for."""
    values = _flags(define, config)
    try:
        words = values.read_flags_from_files(words, force_gnu=False)
        own, overrides = _split(words) if config != "none" else (words, {})
        if any(_HELP.fullmatch(word) for word in own):
            return None
        rest = values(["nonlocal_jax", *own])
    except (flags.Error, OSError, ValueError) as error:
        raise UserError(f"{error}") from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag. Flags begin with --, see --help.")
    return Options(values, overrides)


def _flags(define: Define, config: TakesConfig) -> flags.FlagValues:
    """The command's flags with their defaults."""
    values = flags.FlagValues()
    if config != "none":
        flags.DEFINE_string("config", None, _CONFIG_HELP, flag_values=values)
    define(values)
    return values


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What is no override, and the overrides by key: of those for the same key, the last one."""
    own: list[str] = []
    overrides: dict[str, str] = {}
    left = iter(words)
    for word in left:
        if word == "--":
            own += [word, *left]
            break
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            own.append(word)
            continue
        no, key, value = match.groups(default="")
        if not (no or value or key in _switches()):
            value = f"={next(left, '')}"
        overrides.pop(key, None)  # the order is that of the last ones
        overrides[key] = f"--{no}config.{key}{value}"
    return own, overrides


def _switches() -> set[str]:
    """Keys that are True or False, which may be given without a value."""
    trees = [files.flatten(files.complete({"task": task})) for task in keys.TASKS]
    return {key for flat in trees for key, value in flat.items() if isinstance(value, bool)}


def _set_up() -> None:
    """What has to be done once in a process."""
    logging.set_verbosity(logging.WARNING)  # the libraries say much at INFO
    flags.FLAGS.mark_as_parsed()  # Grain reads its settings there
    if not gc.get_freeze_count():
        gc.freeze()  # what was imported stays: searching it was a seventh of tracing's time


def _defaults() -> schema.Run:
    return files.validate(files.complete({}))


def _help(
    words: list[str], main: Callable[[Options], None], define: Define, config: TakesConfig
) -> str:
    """The command's manual; of the config that `--config` names, if it is right."""
    shown, note = None, ""
    if config != "none":
        own, overrides = _split([word for word in words if not _HELP.fullmatch(word)])
        values = _flags(define, config)
        try:
            values(["nonlocal_jax", *own])
            shown = Options(values, overrides).config_over(_defaults)
        except (UserError, flags.Error, ValueError) as error:
            note = f"\nThese are the defaults, because of a mistake in the command: {error}\n"
        shown = shown or _defaults()
    doc = sys.modules[main.__module__].__doc__ or ""
    return help_text.manual(doc, _flags(define, config), shown) + note
