"""The page: its data give the weights of the Python interface, and names can't break out of it."""

import base64
import html.parser
import json
import re
import zlib

import browser
import numpy as np
import pages
import pytest
from evaluations import picture
from PIL import Image

from nonlocal_jax.evaluation import predictor
from nonlocal_jax.exporting.page import assemble, entry, images, quantise
from nonlocal_jax.models.attention_factors import AttentionFactors
from nonlocal_jax.reporting import attention

POINTS = (
    (0, 0),
    (30, 60),
    (40, 2),
    (17, 3),
    (39, 41),
    (5, 60),
    (28, 1),
    (33, 33),
    (9, 50),
    (21, 21),
)
IMAGES = {"a.png": picture(2), "b.png": np.ascontiguousarray(picture(2)[:, ::-1])}


class Scripts(html.parser.HTMLParser):
    """The script elements of a page as browsers see them, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.loads = [], []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")
        self.loads += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, text):
        if self._inside:
            self.scripts[-1] += text


def read_page(path):
    """The data of a page."""
    found = Scripts(path.read_text())
    assert len(found.scripts) == 2 and found.loads == ["data:,"]
    return json.loads(found.scripts[0])


def numbers(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def page_weights(item, row, column):
    """The softmax of a pixel's row, from the data alone."""
    _, rows, columns = item["space"]
    kind = {8: "<i1", 16: "<i2"}[item["bits"]]
    query, key = (
        numbers(item[name], kind).reshape(-1, item["channels"])
        * numbers(item[f"{name}Scales"], "<f4")[:, None].astype(np.float64)
        for name in ("query", "key")
    )
    place = int((row + 0.5) / item["height"] * rows) * columns
    place += int((column + 0.5) / item["width"] * columns)
    weights = np.exp(key @ query[place] - (key @ query[place]).max())
    return (weights / weights.sum()).reshape(item["keySpace"][1:])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return pages.attentive(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def model(checkpoint):
    return predictor.load(checkpoint)


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """What the command says when it makes a page of two pictures; a third can't be read."""
    folder = tmp_path_factory.mktemp("page")
    for name, image in IMAGES.items():
        Image.fromarray(image).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    done = pages.make_page(checkpoint, folder, folder / "new" / "page.html")
    assert done.returncode == 1 and "1 of 3 images failed" in done.stderr, done.stderr
    return folder / "new" / "page.html", done.stdout


@pytest.fixture(scope="module")
def page(made):
    return made[0]


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    """The page in a browser."""
    with browser.started(tmp_path_factory.mktemp("profile")) as started:
        started.emulate()
        started.requests()
        started.open(page)
        yield started


def test_the_weights_of_the_data_are_the_python_interfaces(model, page):
    items = read_page(page)["items"]
    for item, (name, image) in zip(items, IMAGES.items(), strict=True):
        assert item["name"] == name and image.shape[:2] == (item["height"], item["width"])
        for row, column in POINTS:
            expected = model.attention(image, (row, column))
            found = page_weights(item, row, column)
            assert found.shape == expected.shape and expected.max() > 5 / expected.size
            np.testing.assert_allclose(found, expected, atol=quantise.BOUND)
            assert found.argmax() == expected.argmax()


def test_the_page_holds_the_prediction(model, page):
    content = read_page(page)
    assert tuple(content["classes"]) == model.class_names
    np.testing.assert_array_equal(content["palette"], model.palette)
    for item, image in zip(content["items"], IMAGES.values(), strict=True):
        mask = np.frombuffer(zlib.decompress(base64.b64decode(item["mask"])), np.uint8)
        np.testing.assert_array_equal(mask.reshape(item["shown"]), model.predict(image))


def test_the_command_tells_the_size_and_how_exact_the_page_is(made):
    page, said = made
    assert f"{page.stat().st_size / 1e6:.2f} MB, 2 pictures" in said
    told = re.search(r"10 points differed from the network's own by at most (\S+)\.\n", said)
    assert 0 < float(told[1]) < quantise.BOUND
    assert "Left out: " in said and "broken.png" in said


def test_names_cannot_break_out_of_the_page(page):
    assert read_page(page)["classes"][0] == pages.HOSTILE
    title = '</title><script>1</script>"'
    text = assemble.page_text({"items": [pages.HOSTILE], "n": "]]><!--", "own": None}, title=title)
    scripts = Scripts(text).scripts
    assert len(scripts) == 2
    assert json.loads(scripts[0]) == {"items": [pages.HOSTILE], "n": "]]><!--", "own": None}


def test_file_names_that_are_no_text_are_shown_anyway():
    assert entry.printable("caf\udce9.png") == "caf\ufffd.png"
    assert entry.printable("café.png") == "café.png"


def test_what_cannot_be_a_page_is_refused_at_once(checkpoint, page, tmp_path):
    def refused(*words, output=tmp_path / "page.html", images=page.parent.parent / "a.png"):
        done = pages.make_page(checkpoint, images, output, *words)
        assert done.returncode == 2 and not (tmp_path / "page.html").exists()
        return done.stderr

    assert "exists already" in refused(output=tmp_path)
    assert "cannot be written" in refused(output=page / "page.html")
    assert "no image" in refused(images=tmp_path / "none.png")
    assert "needs --input" in refused("--input=")
    assert "None of the pictures could be read" in refused(images=page.parent.parent / "broken.png")


def test_a_head_of_another_form_is_named(tmp_path):
    folder = pages.attentive(tmp_path / "gc", **{"model.decode_head.name": "gc"})
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    done = pages.make_page(folder, tmp_path / "0.png", tmp_path / "page.html")
    assert done.returncode == 2 and "the head gc" in done.stderr


@pytest.mark.parametrize("kind", ["softmax", "mean", "relu"])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_integers_give_the_weights_within_the_bound(kind, sharpness):
    rng = np.random.default_rng(1)
    channels = 1 if kind == "relu" else 24
    query, key = rng.normal(size=(2, 9, 8, channels)).astype(np.float32)
    # A large vector in all keys says nothing; where there is a softmax, it takes no bits.
    factors = AttentionFactors(sharpness * query, key + 20 * (kind == "softmax"), kind=kind)
    stored = quantise.quantise(factors)
    flat = query.reshape(72, -1) * np.float64(sharpness), key.reshape(72, -1)
    if kind == "relu":
        expected = np.maximum(flat[0] + flat[1].T, 0) / 72
    elif kind == "mean":
        expected = flat[0] @ flat[1].T / 72
    else:
        expected = np.exp(flat[0] @ flat[1].T)
        expected /= expected.sum(axis=1, keepdims=True)
    found = stored.weights(np.arange(72))
    np.testing.assert_allclose(found, expected, atol=quantise.BOUND)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert stored.query.values.dtype == {8: np.int8, 16: np.int16}[stored.bits]
    assert np.abs(stored.key.values).max() <= 2 ** (stored.bits - 1) - 1


def test_eight_bits_are_used_where_they_suffice():
    rng = np.random.default_rng(0)
    key = rng.normal(size=(6, 6, 32)).astype(np.float32)
    flat, other = rng.normal(size=(2, 20, 20, 8)).astype(np.float32)
    assert quantise.quantise(AttentionFactors(3 * key, key)).bits == 8
    # Without a clear peak, 8 bits would move some.
    assert quantise.quantise(AttentionFactors(0.1 * other, flat)).bits == 16


def test_every_file_of_the_page_is_joined_and_installed():
    web = pages.WEB
    names = {path.name for path in web.iterdir()}
    assert names == {"template.html", "own.html", "style.css", *assemble.SCRIPTS}


def test_of_two_pictures_the_one_that_was_chosen_last_is_shown(opened):
    choose = "Promise.all([explorer.select(1), explorer.select(0)])"  # 1 is decoded meanwhile
    assert opened.run(f"{choose}.then(() => explorer.item.name)") == "a.png"


def test_a_clicked_point_has_the_weights_of_the_python_interface(model, opened):
    for number, image in enumerate(IMAGES.values()):
        opened.run("explorer.select(arguments[0])", number)
        opened.wait(f"explorer.item.name === '{list(IMAGES)[number]}'")
        for row, column in POINTS:
            height, width = image.shape[:2]
            canvas = ("#attended", "#seen")[row % 2]
            opened.click(canvas, (column + 0.5) / width, (row + 0.5) / height)
            assert opened.run("explorer.point") == [0, row, column]
            weights = np.array(opened.run("Array.from(explorer.weights)"))
            expected = model.attention(image, (row, column)).ravel()
            np.testing.assert_allclose(weights, expected, atol=quantise.BOUND)
            assert weights.argmax() == expected.argmax()
    assert not opened.errors() and opened.run("window.broken === undefined")


def test_the_colours_are_those_of_predict(model, opened):
    opened.run("explorer.select(0)")
    opened.wait("explorer.item.name === 'a.png'")
    image, point = IMAGES["a.png"], (30, 60)
    opened.run("explorer.moveTo(...arguments[0])", list(point))
    expected = attention.overlay(image, model.attention(image, point), None)
    marks = np.array([opened.run("explorer.point.slice(1)"), opened.run("explorer.peak")])
    height, width = image.shape[:2]
    for row, column in POINTS:
        if np.abs(marks - (row, column)).max(axis=1).min() < 8:
            continue
        found = opened.run(
            "(([x, y]) => { const c = document.querySelector('#attended'); return Array.from("
            "c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data); })"
            "(arguments[0])",
            [(column + 0.5) / width, (row + 0.5) / height],
        )
        np.testing.assert_allclose(found[:3], expected[row, column], atol=12)
    labels = opened.run(
        "Array.from(document.querySelectorAll('#multiples span'), (e) => e.innerText)"
    )
    assert labels == ["1/4x", "even share", "4x", "16x", "64x"]


def test_the_first_point_is_inside_of_the_picture():
    assert images.first_point(np.zeros((40, 60), np.uint8))[0] in (19, 20)
    mask = np.zeros((40, 60), np.uint8)
    mask[20:, 30:] = 1
    row, column = images.first_point(mask)
    assert 28 <= row <= 31 and 38 <= column <= 51


def test_what_is_told_of_a_point_is_what_the_weights_say(model, opened):
    opened.run("explorer.select(0)")
    opened.wait("explorer.item.name === 'a.png'")
    opened.run("explorer.moveTo(30, 60)")
    image = IMAGES["a.png"]
    weights, mask = model.attention(image, (30, 60)), model.predict(image)
    rows, columns = (
        (np.arange(n) + 0.5) * m // n for n, m in zip(mask.shape, weights.shape, strict=True)
    )
    cells = (rows[:, None] * weights.shape[1] + columns).astype(int)
    share = weights.ravel() / np.bincount(cells.ravel())
    by_class = np.bincount(mask.ravel(), share[cells].ravel())
    most = by_class.argmax()
    assert model.class_names[mask[30, 60]] in opened.text("#point")
    assert opened.text("#shares .share").startswith(model.class_names[most])
    shown = float(opened.text("#shares .share b").rstrip("%"))
    assert shown == pytest.approx(100 * by_class[most], abs=0.6)
    top = np.sort(weights.ravel())[::-1][: -(-weights.size // 20)].sum()
    assert float(opened.text("#peaked strong").rstrip("%")) == pytest.approx(100 * top, abs=0.6)
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-30)))
    assert f"{np.exp(entropy):.0f}." in opened.text("#peaked") or entropy < 4
    opened.wait("document.querySelector('#spoken').textContent.includes('row 30, column 60')")
    assert f"Attends {shown:.0f}% to {model.class_names[most]}" in opened.text("#spoken")


def test_keys_move_the_point_by_a_position(opened):
    opened.run("explorer.moveTo(20, 20)")
    opened.run("document.activeElement.blur()")
    for _ in range(9):  # the switch of colours, the pictures, then the canvas
        opened.key("Tab")
        if opened.run("document.activeElement.id") == "attended":
            break
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    _, rows, columns = opened.run("explorer.item.space")
    _, height, width = opened.run("[0, explorer.item.height, explorer.item.width]")
    before = np.array(opened.run("explorer.point"))
    position = ((before[1:] + 0.5) * (rows, columns) // (height, width)).astype(int)
    for name, step in (("ArrowDown", (1, 0)), ("ArrowRight", (0, 1)), ("ArrowUp", (-1, 0))):
        opened.key(name)
        position = position + step
        expected = (position + 0.5) * (height, width) // (rows, columns)
        assert opened.run("explorer.point.slice(1)") == expected.tolist()
    for _ in range(columns):
        opened.key("ArrowLeft", modifiers=8)
    assert opened.run("explorer.point[2]") < width / columns
    opened.wait("document.querySelector('#spoken').textContent.includes('column 3')")


def test_the_colours_follow_the_system_and_the_switch(opened):
    ground = "getComputedStyle(document.body).backgroundColor"

    def brightness():
        return sum(int(v) for v in opened.run(ground)[4:-1].split(","))

    opened.emulate(prefers_color_scheme="light")
    assert brightness() > 600
    opened.emulate(prefers_color_scheme="dark")
    assert brightness() < 150
    opened.run("document.querySelector('#theme').click()")
    assert brightness() > 600
    assert opened.run("document.querySelector('#theme').ariaPressed") == "false"
    opened.run("document.querySelector('#theme').click()")
    assert brightness() < 150


def test_the_page_fits_a_phone_and_takes_touches(opened):
    opened.emulate(width=360, height=740)
    opened.wait("document.querySelector('#attended').clientWidth < 360")
    assert opened.run("document.documentElement.scrollWidth") <= 360
    opened.tap("#attended", 0.25, 0.5)
    height, width = IMAGES["a.png"].shape[:2]
    expected = (int(0.5 * height), int(0.25 * width))
    opened.wait(
        f"Math.abs(explorer.point[1] - {expected[0]}) < 2 && "
        f"Math.abs(explorer.point[2] - {expected[1]}) < 2"
    )
    opened.emulate()


def test_nothing_is_asked_of_the_network(page, opened):
    assert opened.requests() == [page.as_uri()]
    refused = "fetch('https://example.com').then(() => 'sent', () => 'refused')"
    assert opened.run(refused) == "refused"
    assert not any("example.com" in url for url in opened.requests())
