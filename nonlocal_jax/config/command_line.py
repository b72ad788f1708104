"""What every command shares: `--config`, overrides, and errors that are meant to be read."""

import difflib
import gc
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from logging import INFO, getLogger

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import compilation

EXIT_BAD_IMAGES = 1
EXIT_USER_ERROR = 2
PRECISIONS = ("default", "high", "highest")  # of matrix products and convolutions

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, e.g. configs/ade20k_r50_80k.py; change values with --config.a.b=c.",
    lock_config=True,
)


def run(main: Callable[[], None], *, needs_config: bool = True) -> None:
    """Parses the flags and calls `main`; a UserError becomes one message and exit code 2.

    A missing `--config`, an unknown key and a value of another type are such errors.
    """
    # Rows import `configs.common`: also when the command was started from another folder.
    sys.path.append(str(pathlib.Path.cwd()))

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if needs_config or _CONFIG.value is not None:
                _check_tuples(config(), load_config(_config_path(argv)))
        except UserError as error:
            _exit(str(error))
        except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            _exit(_explain(argv, error))
        if len(rest) > 1:
            _exit(f"{rest[1]!r} is not a flag. Flags begin with --, see --help.")
        return rest

    def guarded(_: Sequence[str]) -> None:
        # The libraries tell their life story at INFO; of ours, it is which kernels were chosen.
        logging.set_verbosity(logging.WARNING)
        getLogger("nonlocal_jax").setLevel(INFO)
        try:
            _set_up_jax()
            gc.freeze()  # what was imported stays: searching it was a seventh of tracing's time
            main()
        except UserError as error:
            _exit(str(error))
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted.\n")
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def _set_up_jax() -> None:
    """Matrix products as the config wants them, and a cache of what was compiled before."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = str(cache / "nonlocal_jax" / "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
    if getattr(sys.modules["__main__"].__spec__, "name", "").startswith("nonlocal_jax."):
        compilation.keep_programs(folder)
    if _CONFIG.value is None:
        return
    precision = _CONFIG.value.precision
    if precision not in PRECISIONS:
        listed = ", ".join(PRECISIONS)
        raise UserError(f"config.precision is {precision!r}; it must be one of {listed}.")
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", precision)
    if precision == "highest" and _CONFIG.value.model.dtype == "auto":
        _CONFIG.value.model.dtype = "float32"


def config() -> ConfigDict:
    """The config that `--config` names, overrides applied.

    Raises:
      UserError: there is no `--config`.
    """
    if _CONFIG.value is None:
        rows = sorted(path.name for path in pathlib.Path("configs").glob("[a-z]*.py"))
        listed = f" Here are: {', '.join(rows)}." if rows else ""
        raise UserError(f"--config is missing: name a file of configs/.{listed}")
    return _CONFIG.value


def define_inference_flags() -> None:
    """The flags that evaluating and predicting share."""
    flags.DEFINE_string("checkpoint", None, "What convert or a training run wrote.")
    flags.DEFINE_bool("tta", False, "Average over the config's scales and mirrored images.")
    flags.DEFINE_string("output", None, "Folder to write to.")


def require(*names: str) -> None:
    """Raises a UserError for a flag that was not given."""
    for name in names:
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name} is missing: {flags.FLAGS[name].help} See --help.")


def exit_for_bad_images(reasons: Sequence[str], total: int) -> None:
    """Lists what was left out, and exits with 1, unless there is nothing."""
    if reasons:
        listed = "".join(f"  {reason}\n" for reason in reasons)
        sys.stderr.write(f"nonlocal_jax: {len(reasons)} of {total} images failed:\n{listed}")
        sys.exit(EXIT_BAD_IMAGES)


def config_name() -> str:
    """The stem of the file that `--config` names: "ade20k_r50_80k"."""
    return pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem


def load_config(path: str | os.PathLike[str], **overrides: object) -> ConfigDict:
    """The config in a file, for notebooks and tests.

    Args:
      path: a file of configs/.
      **overrides: values by dotted key, as in `load_config(path, **{"model.backbone.depth": 18})`.

    Raises:
      UserError: there is no such file, no such key, or the value is of another type.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"There is no config {path}; the rows are in configs/.")
    root = str(path.resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)
    namespace: dict[str, object] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    if "get_config" not in namespace:
        raise UserError(f"{path} is no config: it has no get_config().")
    loaded: ConfigDict = namespace["get_config"]()  # type: ignore[operator]
    loaded.lock()
    for key in overrides:
        _check_key(loaded, key)
    try:
        loaded.update_from_flattened_dict(overrides)
    except (TypeError, ValueError) as error:
        raise UserError(f"A value is of the wrong type: {error}") from error
    return loaded


def _check_key(loaded: ConfigDict, key: str) -> None:
    known = _dotted_keys(loaded)
    if key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else f" It has: {', '.join(known)}."
        raise UserError(f"The config has no key {key}.{hint}")


def _dotted_keys(node: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for name in node:
        keys.append(prefix + name)
        if isinstance(node[name], ConfigDict):
            keys += _dotted_keys(node[name], f"{prefix}{name}.")
    return keys


def _explain(argv: Sequence[str], error: Exception) -> str:
    """Turns what absl and ml_collections raised for `argv` into one sentence."""
    arguments = [argument.lstrip("-") for argument in argv[1:]]
    path = _config_path(argv)
    if path and not pathlib.Path(path).is_file():
        return f"There is no config {path}; run this in the repository's folder, or give its path."
    if path:
        loaded = load_config(path)
        for argument in arguments:
            if argument.startswith("config."):
                try:
                    _check_key(loaded, argument.partition("=")[0].removeprefix("config."))
                except UserError as unknown_key:
                    return str(unknown_key)
    return f"{error}"


def _config_path(argv: Sequence[str]) -> str:
    """The value of `--config=PATH` or `--config PATH`, empty where there is none."""
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config":
            return value if equals else "".join(argv[index + 1 : index + 2])
    return ""


def _check_tuples(given: ConfigDict, default: ConfigDict) -> None:
    """Raises a UserError for a tuple of other elements than the file's, or a pair that is none.

    ml_collections checks that a tuple stays a tuple, but not what is in it.
    """
    for key in _dotted_keys(default):
        value, expected = _at(given, key), _at(default, key)
        if not isinstance(expected, tuple):
            continue
        number = (int, float) if isinstance(expected[0], float) else int
        pair = len(expected) == 2
        assert isinstance(value, tuple)  # ml_collections saw to it
        if not all(isinstance(v, number) for v in value) or (pair and len(value) != 2):
            raise UserError(f"config.{key} is {value}; it must be like {expected}.")


def _at(node: ConfigDict, key: str) -> object:
    for name in key.split("."):
        node = node[name]
    return node


def _exit(message: str) -> None:
    sys.stderr.write(f"nonlocal_jax: {message}\n")
    sys.exit(EXIT_USER_ERROR)
