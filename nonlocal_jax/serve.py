"""Segments images over HTTP.

    python -m nonlocal_jax.serve --checkpoint=RUN [--host=127.0.0.1] [--port=8000] \
        [--step=best|latest|N] [--tta] [--max_batch=8] [--queue=64] [--max_bytes=20000000]

POST the bytes of an image file to /mask, /overlay or /json. /health and /metrics say how the server
is; a browser finds a page at /. Images of similar sizes that wait together are segmented together.

SIGTERM or Ctrl-C ends it: it accepts no more connections, answers the requests it has, and exits
with code 0, or with 1 if some were cut off after --grace seconds. A second signal ends it at once.
"""

import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import for_segmentation
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.runtime import startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.serving.limits import Limits, check_installed, parse_sizes


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    command_line.define_checkpoint_flags(values)
    usual = Limits()
    flags.DEFINE_string("host", "127.0.0.1", "The address to listen on.", flag_values=values)
    flags.DEFINE_integer("port", 8000, "The port; 0 for any.", 0, 65535, flag_values=values)
    flags.DEFINE_list(
        "warm",
        ["480x640"],
        "HEIGHTxWIDTH of images, separated by commas: their programs are compiled at the start.",
        flag_values=values,
    )
    for name, least, most, told in (
        ("max_batch", 1, 1024, "Images that are segmented together."),
        ("queue", 1, None, "Images that may wait; more are refused with status 503."),
        ("max_bytes", 1, None, "Bytes of an upload."),
        ("programs", 1, None, "Compiled programs that are kept."),
        ("grace", 0, None, "Seconds to answer what was begun, after a signal."),
    ):
        flags.DEFINE_integer(name, getattr(usual, name), told, least, most, flag_values=values)
    for name, told in (
        ("read_timeout", "Seconds that a client has to send a header, and a body."),
        ("timeout", "Seconds until a request is answered, or refused with status 503."),
    ):
        flags.DEFINE_float(name, getattr(usual, name), told, 0.1, flag_values=values)


def main(options: Options) -> None:
    """Serves `--checkpoint`."""
    given = options.flags
    options.require("checkpoint", "host")
    check_installed()
    from nonlocal_jax.serving import server  # needs the extra

    sizes = parse_sizes(given.warm)
    found = locate.find(given.checkpoint, locate.parse_step(given.step))
    given_config = options.config_over(lambda: read_metadata(found.folder).needed_config(found))
    if isinstance(given_config, VideoConfig):
        raise UserError(f"serve segments images, and {found} is for videos: use predict.")
    config = for_segmentation(given_config)
    limits = Limits(
        max_batch=given.max_batch,
        queue=given.queue,
        max_bytes=given.max_bytes,
        max_pixels=config.data.max_pixels,
        read_timeout=given.read_timeout,
        timeout=given.timeout,
        grace=given.grace,
        programs=given.programs,
    )
    with server.bind(given.host, given.port) as listening:
        startup.use_jax(config.precision)
        say(f"The checkpoint is {found}.")
        restored = restore(found, config, departing=options.overridden)
        say(f"Listening on {server.address_of(listening)}. Ctrl-C ends it.")
        code = server.serve(listening, restored, limits, warm=sizes, tta=given.tta)
    if code:
        sys.exit(code)


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
