"""Flags, overrides, help and exit codes, in this process, with a command of three lines."""

import os
import re
import sys
from pathlib import Path

import pytest
from absl import flags

from nonlocal_jax.config import command_line, files
from nonlocal_jax.errors import UserError


def define(values):
    flags.DEFINE_string("workdir", None, "Where it goes.", flag_values=values)
    flags.DEFINE_integer("count", 3, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("tta", False, "Whether to average.", flag_values=values)
    flags.DEFINE_enum("kind", None, ["a", "b"], "What it is.", flag_values=values)
    command_line.define_process_flags(values)


def options_of(*argv, config="required"):
    """What a command is given for these words; fails if it isn't run."""
    seen = []
    assert command_line.run(seen.append, define, config=config, argv=argv) == 0
    return seen[0]


def message_of(capsys, *argv, config="required", main=lambda options: None):
    """What is said of a mistake: one message, exit code 2, and no stack trace."""
    assert command_line.run(main, define, config=config, argv=argv) == 2
    told = capsys.readouterr().err
    assert told.startswith("nonlocal_jax: ") and "Traceback" not in told
    return told


def test_the_commands_own_flags():
    options = options_of("--config=demo", "--workdir=x", "--tta", "--count", "5")
    assert (options.flags.workdir, options.flags.tta, options.flags.count) == ("x", True, 5)
    assert options.config == files.load("demo") and options.config_name == "demo"
    assert options.processes == {
        "coordinator": None,
        "num_processes": None,
        "process_id": None,
        "join_timeout": 300.0,
    }


def test_overrides():
    config = options_of(
        "--config.seed=4",  # before --config, too
        "--config",
        "demo",
        "--config.model.backbone.depth",
        "34",
        "--config.data.crop_size=32,48",
        "--config.data.ratio_range=(1,2)",
        "--config.optimizer.learning_rate=1",
        "--config.model.align_corners",
        "--noconfig.eval.tta_flip",
        "--config.data.label_map={7: 0, 8: 255}",
        "--config.mesh.data",
        "-1",
        "--config.data_dir=a=b",
        "--config.init_from=",
        "--config.published.miou=3",
    ).config
    assert (config.seed, config.model.backbone.depth, config.data_dir) == (4, 34, "a=b")
    assert (config.data.crop_size, config.data.ratio_range) == ((32, 48), (1, 2))
    assert config.optimizer.learning_rate == 1.0
    assert config.model.align_corners and not config.eval.tta_flip
    assert config.data.label_map == {7: 0, 8: 255}
    assert config.published.miou == 3 and config.published.fps is None


@pytest.mark.parametrize(
    ("key", "word", "value"),
    [
        ("eval.metrics", "iou,acc", ("iou", "acc")),
        ("eval.metrics", "('iou', 'acc')", ("iou", "acc")),
        ("eval.metrics", "iou", ("iou",)),
        ("eval.metrics", "'iou','acc'", ("iou", "acc")),
        ("log_to", "auto,mlflow", ("auto", "mlflow")),
        ("data.folders", "rgb, coco", ("rgb", "coco")),
        ("data.folders", "('a,b',)", ("a,b",)),
        ("data.folders", "2023,2024", ("2023", "2024")),
        ("optimizer.undecayed", "theta,phi", ("theta", "phi")),
        ("optimizer.undecayed", "", ()),
    ],
)
def test_texts_are_split_at_commas(key, word, value):
    config = options_of("--config=demo", f"--config.{key}={word}").config
    assert files.flatten(files.to_tree(config))[key] == value


def test_of_the_same_key_the_last_one_counts():
    config = options_of(
        "--config=demo",
        "--config.data.crop_size=32,32",
        "--config.seed=1",
        "--config.data.crop_size=64,64",
        "--config.seed=2",
        "--config.model.align_corners",
        "--noconfig.model.align_corners",
    ).config
    assert (config.data.crop_size, config.seed) == ((64, 64), 2)
    assert not config.model.align_corners


def test_the_settings_of_a_section_are_those_of_the_module_that_is_named():
    config = options_of(
        "--config=demo",
        "--config.model.decode_head.num_convs=1",
        "--config.model.decode_head.name=fcn",
    ).config
    assert (config.model.decode_head.name, config.model.decode_head.num_convs) == ("fcn", 1)


def test_overrides_of_a_config_that_is_found_elsewhere():
    found = files.load("demo", **{"model.decode_head.name": "fcn", "seed": 9})
    options = options_of("--config.model.decode_head.num_convs=3", config="optional")
    over = options.config_over(lambda: found)
    assert (over.model.decode_head.num_convs, over.seed) == (3, 9)
    assert options_of(config="optional").config_over(lambda: found) == found
    departing = options_of("--config=camvid", "--config.seed=5", config="optional")
    assert departing.config_over(pytest.fail) == files.load("camvid", seed=5)


def test_a_flag_file(tmp_path):
    (tmp_path / "flags").write_text("--config=demo\n--config.seed=5\n--count=2\n")
    options = options_of(f"--flagfile={tmp_path / 'flags'}", "--config.seed=6")
    assert (options.config.seed, options.flags.count) == (6, 2)


def test_what_a_config_is_called(tmp_path):
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert options_of(f"--config={run / 'config.json'}").config_name == "first"
    assert options_of("--config=configs/demo.py").config_name == "demo"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing: give a file, or one of these names: ade20k_r101_160k, "),
        (["--config=nope"], "There is no config nope."),
        (["--config=configs/common.py"], "There is no config configs/common.py."),
        (["--config=demo", "--config.model.backbone.dept=3"], "Did you mean model.backbone.depth?"),
        (["--config=demo", "--config.learning_rate=3"], "Did you mean optimizer.learning_rate?"),
        (
            ["--config=demo", "--config.model.backbone.depth=big"],
            "is 'big'; it must be one of 18, 34",
        ),
        (["--config=demo", "--config.seed=1.5"], "config.seed is '1.5'; it must be a whole number"),
        (["--config=demo", "--config.eval.tta_flip=3"], "is '3'; it must be True or False."),
        (["--config=demo", "--config.model.backbone.depth=51"], "one of 18, 34, 50, 101, 152."),
        (["--config=demo", "--config.data.crop_size=512"], "config.data.crop_size is (512,); "),
        (["--config=demo", "--config.data.crop_size=a,b"], "config.data.crop_size is ('a,b',); "),
        (["--config=demo", "--config.data.crop_size=0,10"], "each a whole number, at least 1."),
        (["--config=demo", "--config.eval.mode=foo"], "it must be one of whole, slide."),
        (["--config=demo", "--config.precision=hi"], "one of default, high, highest."),
        (["--config=demo", "--config.batch_size=0"], "config.batch_size is 0; it must be "),
        (["--config=demo", f"--config.batch_size={2**31}"], "less than 2147483648"),
        (["--config=demo", f"--config.total_steps={2**70}"], "less than 2147483648"),
        (["--config=demo", "--config.data.num_workers=-5"], "num_workers is -5; it must be "),
        (["--config=demo", "--config.data.label_map={7: 99}"], "label_map has 7: 99; a label "),
        (["--config=demo", "--config.data.label_map={1: 2, 1: 0}"], "has 1 more than once."),
        (["--config=demo", "--config.data.label_map=7"], "is '7'; it must be a mapping like "),
        (["--config=demo", "--config.model=3"], "config.model is '3'; it must be a section."),
        (["--config=demo", "--config.published.miou=x"], "published.miou is 'x'; it must be a "),
        (["--config=demo", "--workdr=x"], "Unknown command line flag 'workdr'"),
        (["--config=demo", "--count=0"], "count"),
        (["--config=demo", "--count"], "Missing value for flag --count"),
        (["--config=demo", "stray"], "'stray' is not a flag. Flags begin with --"),
        (["--config=demo", "--", "stray"], "'stray' is not a flag."),
        (["--flagfile=/nope"], "/nope"),
    ],
)
def test_a_mistake_is_one_message(words, message, capsys):
    assert message in message_of(capsys, *words)


def test_a_command_without_a_config_has_no_such_flag(capsys):
    assert "Unknown command line flag 'config'" in message_of(
        capsys, "--config=demo", config="none"
    )


def test_exit_codes(capsys):
    def raising(error):
        def main(options):
            raise error

        return command_line.run(main, argv=[])

    assert raising(UserError("so it is")) == 2
    assert capsys.readouterr().err == "nonlocal_jax: so it is\n"
    assert raising(KeyboardInterrupt()) == 130
    assert raising(SystemExit(75)) == 75
    assert raising(SystemExit(None)) == 0
    with pytest.raises(ZeroDivisionError):  # a fault of the program keeps its stack trace
        raising(ZeroDivisionError())


def test_bad_images_are_listed(capsys):
    def main(options):
        command_line.exit_for_bad_images(["a.png is damaged."], 3)

    assert command_line.run(main, argv=[]) == 1
    assert "1 of 3 images failed:\n  a.png is damaged.\n" in capsys.readouterr().err


def test_what_is_required(capsys):
    def main(options):
        options.require("count", "workdir")

    told = message_of(capsys, config="none", main=main)
    assert told == "nonlocal_jax: --workdir is missing: Where it goes. See --help.\n"

    def main_of_choices(options):
        options.require("kind")

    told = message_of(capsys, config="none", main=main_of_choices)
    assert told == "nonlocal_jax: --kind is missing: What it is, one of a|b. See --help.\n"


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull"])
@pytest.mark.parametrize("columns", [60, 100])
def test_help(word, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))

    def main(options):
        raise AssertionError

    assert command_line.run(main, define, config="optional", argv=["--tta", word]) == 0
    told = capsys.readouterr().out
    assert all(len(line) <= columns for line in told.splitlines())
    assert "Flags, overrides, help" in told  # this module's docstring
    for expected in ("--[no]tta", "--count=VALUE", "(default: 3)", "model.backbone.depth=50"):
        assert expected in told
    flat = " ".join(told.split())
    assert "What the network is given: the whole image, or overlapping windows (slide)." in flat
    assert "[one of whole, slide]" in flat


def test_help_of_a_config_shows_its_values(capsys):
    words = ["--config=demo", "--config.model.decode_head.name=fcn", "-h"]
    assert command_line.run(lambda options: None, define, config="optional", argv=words) == 0
    told = capsys.readouterr().out
    assert "data.crop_size=64,512\n" in told and "model.decode_head.num_convs=2\n" in told


def test_a_letter_that_the_terminal_lacks_ends_nothing(tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert command_line.run(lambda options: print("Straße"), argv=[]) == 0
    assert (tmp_path / "out").read_text() == "Stra\\xdfe\n"


def test_the_global_flags_stay_as_they_are():
    before = set(flags.FLAGS)
    options_of("--config=demo", "--config.seed=3")
    options_of("--config=demo", "--config.seed=4")
    assert set(flags.FLAGS) == before
    assert not {"config", "workdir", "tta"} & before


def test_help_into_a_pipe_that_is_closed(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        "import sys\nfrom nonlocal_jax.config import command_line\n"
        "sys.exit(command_line.run(lambda options: None, config='optional'))\n"
    )
    code = os.system(f"{sys.executable} {script} --help 2>{tmp_path}/errors | head -1 >/dev/null")
    assert code == 0 and (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("import nothere", "cannot be imported: ModuleNotFoundError: No module named 'nothere'"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("build = None", "has no Options: docs/extending.md"),
    ],
)
def test_a_mistake_in_a_module_of_ones_own_is_one_message(tmp_path, monkeypatch, text, told):
    (tmp_path / "mine").mkdir()
    name = f"mine.m{abs(hash(text))}"
    (tmp_path / "mine" / f"{name.partition('.')[2]}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"config.loss.name is '{name}'")) as caught:
        files.load("demo", **{"loss.name": name})
    assert told in str(caught.value)


LINES = """
import sys
from nonlocal_jax.config import command_line
def main(options):
    for number in range(2000):
        print("line", number, flush=True)
    open(sys.argv[1], "w").write("done")
sys.exit(command_line.run(main, argv=[]))
"""


@pytest.mark.parametrize("output", ["| head -1 > /dev/null", "> /dev/full", ">&-", ">&- 2>&-"])
def test_what_cannot_be_printed_ends_no_work(tmp_path, output):
    script, marker, errors = tmp_path / "command.py", tmp_path / "marker", tmp_path / "errors"
    script.write_text(LINES)
    heard = "" if "2>&-" in output else f"2>{errors}"
    assert os.system(f"{sys.executable} {script} {marker} {heard} {output}") == 0
    assert marker.read_text() == "done"
    told = errors.read_text().splitlines() if heard else []
    assert len(told) == (1 if "full" in output else 0), told


def test_what_steers_a_terminal_is_written_out(capsys):
    def main(options):
        print("\x1b[31mevil\x07 \u202e \t tab \u00e9 \U0001f6e3")

    assert command_line.run(main, argv=[]) == 0
    assert capsys.readouterr().out == "\\x1b[31mevil\\x07 \\u202e \t tab \u00e9 \U0001f6e3\n"


def test_a_path_that_is_too_long_is_one_message(capsys):
    assert command_line.run(lambda options: Path("a" * 300).stat(), argv=[]) == 2
    assert "aaa cannot be used: File name too long." in capsys.readouterr().err
