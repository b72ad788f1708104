"""Folders of one's own: masks of colours and of polygons, split lists, several folders at once."""

import collections
import itertools

import cv2
import numpy as np
import pytest
from own_folders import (
    CLASSES,
    SIZE,
    both_splits,
    coco,
    coloured,
    labels,
    write_classes,
    write_coco,
    write_image,
    write_mask,
)
from PIL import Image

from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import colours, datasets, order, polygons
from nonlocal_jax.inputs.loader import Inputs


def inputs(root="", **data):
    usual = {"name": "folder", "scale": (32, 24), "crop_size": (16, 16), "num_threads": 1}
    return Inputs(
        data=Data(**{**usual, **data}), data_dir=str(root), num_classes=len(CLASSES), batch_size=4
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_masks_of_colours_are_read_by_the_palette(tmp_path, mode):
    write_classes(tmp_path, masks="colours", ignored_colours=[[1, 2, 3], [0, 0, 0]])
    mask = labels()
    mask[0, :5], mask[1, 0] = 255, 255
    pixels = coloured(mask, [[1, 2, 3]])
    pixels[1, 0] = 0
    image = Image.fromarray(pixels)
    image = image.quantize(5) if mode == "P" else image.convert(mode)
    both_splits(tmp_path, lambda name: write_mask(tmp_path, name, image))
    source = inputs(tmp_path).open("train")
    np.testing.assert_array_equal(source[0].label, mask)
    inputs(tmp_path).check()
    batch = next(inputs(tmp_path).train_batches())
    assert set(np.unique(batch["label"])) <= {0, 1, 2, 255}


def test_an_unknown_colour_names_file_and_colour(tmp_path):
    write_classes(tmp_path, masks="colours")
    pixels = coloured(labels())
    pixels[7, 9] = pixels[8, 2] = 9, 8, 7
    both_splits(tmp_path, lambda name: write_mask(tmp_path, name, pixels))
    with pytest.raises(
        UserError,
        match=r"labels/val/a\.png has the colour \[9, 8, 7\] at row 7, column 9 \(2 pixels",
    ):
        inputs(tmp_path).open("val")[0]


def test_masks_of_colours_that_are_numbers_are_refused(tmp_path):
    write_classes(tmp_path, masks="colours")
    both_splits(tmp_path, lambda name: write_mask(tmp_path, name, labels()))
    with pytest.raises(UserError, match=r"has the colour \[\d, \d, \d\]"):
        inputs(tmp_path).check()


def test_a_damaged_mask_of_colours_is_named(tmp_path):
    write_classes(tmp_path, masks="colours")
    both_splits(tmp_path, lambda name: write_mask(tmp_path, name, coloured(labels())))
    path = tmp_path / "labels" / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"train/a\.png cannot be decoded as a mask"):
        inputs(tmp_path).open("train")[0]
    read = colours.ColourMasks(((0, 0, 0), (1, 1, 1)))
    with pytest.raises(UserError, match="max_pixels"):
        read((tmp_path / "labels" / "val" / "a.png").read_bytes(), "a", 10)


@pytest.mark.parametrize(
    ("content", "because"),
    [
        ({"masks": "colors"}, "masks"),
        ({"masks": "colours", "palette": None}, 'needs a "palette"'),
        (
            {"masks": "colours", "palette": [[1, 1, 1], [2, 2, 2], [1, 1, 1]]},
            "more than one meaning",
        ),
        ({"masks": "colours", "ignored_colours": [[0, 0, 142]]}, "more than one meaning"),
        ({"masks": "colours", "label_map": {"7": 0}}, "masks of values, not of colours"),
        ({"masks": "polygons", "reduce_zero_label": True}, "masks of values, not of polygons"),
        ({"ignored_colours": [[0, 0, 0]]}, 'is for "masks": "colours"'),
        ({"outside": "road"}, 'is for "masks": "polygons"'),
        ({"masks": "polygons", "outside": "Road"}, "'Road', which is no class"),
    ],
)
def test_contradictions_in_the_class_list_are_told(tmp_path, content, because):
    write_classes(tmp_path, **content)
    with pytest.raises(UserError, match=rf"classes\.json is not a class list: .*{because}"):
        datasets.describe(Data(name="folder"), str(tmp_path))
    write_classes(tmp_path, masks="colours")
    with pytest.raises(UserError, match="says that these are of colours"):
        datasets.describe(Data(name="folder", reduce_zero_label=True), str(tmp_path))


@pytest.mark.parametrize("outside", [None, "sky"])
def test_polygons_become_masks(tmp_path, outside):
    write_classes(tmp_path, masks="polygons", outside=outside)
    square = [4, 3, 20, 3, 20, 15, 4, 15]
    runs = {"size": SIZE, "counts": [24 * 30, 5, 24 * 2 - 5]}
    annotations = [
        (0, "road", [square, [25, 20, 31, 20, 31, 23]]),
        (0, "car", [[10, 10, 25, 10, 25, 12, 10, 12]]),
        (0, "car", runs),
    ]
    for split in ("train", "val"):
        write_image(tmp_path, f"{split}/a.png")
        write_coco(tmp_path, split, coco(annotations=annotations))
    expected = np.full(SIZE, 255 if outside is None else 1, np.uint8)
    expected[3:15, 4:20] = 0
    triangle = np.zeros(SIZE, bool)
    for row, column in itertools.product(range(20, 23), range(25, 31)):
        triangle[row, column] = column + 0.5 > 25 + (row + 0.5 - 20) * 2
    expected[triangle] = 0
    expected[10:12, 10:25], expected[:5, 30] = 2, 2
    np.testing.assert_array_equal(inputs(tmp_path).open("train")[0].label, expected)
    inputs(tmp_path).check()
    assert next(inputs(tmp_path).train_batches())["label"].shape == (4, 16, 16)


@pytest.mark.parametrize("seed", range(20))
def test_a_pixel_is_inside_if_its_centre_is(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-8, 40, (rng.integers(3, 9), 2))
    drawn = polygons.inside(points, SIZE)
    for row, column in itertools.product(range(SIZE[0]), range(SIZE[1])):
        # Corners that the ray to the right crosses, one edge after the other.
        crossings = 0
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            if (y0 > row + 0.5) != (y1 > row + 0.5):
                crossings += x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0) > column + 0.5
        assert drawn[row, column] == crossings % 2


def test_a_convex_polygon_covers_what_opencv_fills_but_for_its_edge():
    points = np.array([[3.2, 2.1], [28.7, 5.5], [20.3, 21.9], [6.4, 18.2]])
    drawn = polygons.inside(points, SIZE)
    filled = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(filled, [np.round((points - 0.5) * 256).astype(int)], 1, shift=8)
    edge = np.zeros(SIZE, np.uint8)
    cv2.polylines(edge, [np.round((points - 0.5) * 256).astype(int)], True, 1, shift=8, thickness=2)
    assert (drawn == filled)[edge == 0].all() and drawn.sum() > 300


# Their sum is that of the image, but for a multiple of 2^64.
WRAPPED = {"size": SIZE, "counts": [2**63 - 1, 2**63 - 1, 2 + SIZE[0] * SIZE[1]]}


def repeated(part, key):
    """Two entries of the same number, as in files that were put together."""
    content = coco(images=("a.png", "b.png"))
    content[part][1][key] = content[part][0][key]
    return content


@pytest.mark.parametrize(
    ("content", "because"),
    [
        ([], "no file of polygons"),
        ({"images": [], "annotations": []}, "'categories' is missing"),
        (coco(annotations=[(7, "road", [])]), "7 is missing"),
        (
            coco(categories=("road", "Sky")),
            "category 'Sky', which is none of the classes road, sky",
        ),
        (coco(annotations=[(0, "road", [[1, 2, 3]])]), r"object 0 \(from 0\) has no polygons"),
        (coco(annotations=[(0, "road", "xyz")]), "has no polygons"),
        (coco(annotations=[(0, "road", [[0, 0, 9, "x"]])]), "has no polygons"),
        (coco(annotations=[(0, "road", [[0, 0, 9, float("inf")]])]), "not finite"),
        (coco(annotations=[(0, "road", {"size": SIZE, "counts": "abc"})]), "compressed"),
        (coco(annotations=[(0, "road", {"size": SIZE, "counts": [9]})]), "do not cover the image"),
        (coco(annotations=[(0, "road", [[0, 0, 1e308, 1e308, -1e308, 5]])]), r"beyond 1e\+09"),
        (coco(annotations=[(0, "road", [[0, 0, 10**400, 5, 5, 5]])]), "has no polygons"),
        (coco(annotations=[(0, "road", {"size": SIZE, "counts": [10**30]})]), "has no polygons"),
        (coco(annotations=[(0, "road", WRAPPED)]), "do not cover the image"),
        (coco(size=(-9, 9)), "the height or width -9"),
        (coco(size=(float("inf"), 9)), "the height or width inf"),
        (coco(size=(True, 9)), "the height or width True"),
        (coco(images=("a.png", "a.png")), '"images" has the "file_name" \'a.png\' more than once'),
        (repeated("categories", "id"), '"categories" has the "id" 10 more than once'),
        (repeated("images", "id"), '"images" has the "id" 0 more than once'),
        (coco(size=(9, 9)), "A mask has the size of its image"),
        (coco(images=("b.png",)), r'no mask: there is no entry of "file_name": "a.png"'),
    ],
)
def test_files_of_other_forms_are_told(tmp_path, content, because):
    write_classes(tmp_path, masks="polygons")
    write_image(tmp_path, "train/a.png")
    write_coco(tmp_path, "train", content)
    with pytest.raises(UserError, match=because):
        inputs(tmp_path).open("train")[0]


def lists(root):
    """Six images of which lists name some, in subfolders."""
    write_classes(root)
    for number in range(6):
        write_image(root, f"{'deep/' if number % 2 else ''}{number}.jpg", number)
        if number < 5:
            write_mask(root, f"{'deep/' if number % 2 else ''}{number}.png", labels(number))
    (root / "one.txt").write_text("4.jpg\n\ndeep/1\n 2\n")
    (root / "other.txt").write_text("deep/3\n0.jpg")


def test_lists_say_which_images_a_split_has(tmp_path):
    lists(tmp_path)
    given = inputs(tmp_path, train_list="one.txt", val_list=str(tmp_path / "other.txt"))
    train, val = given.open("train"), given.open("val")
    assert [train.name(i) for i in range(3)] == ["4.jpg", "deep/1.jpg", "2.jpg"]
    assert [val.name(i) for i in range(2)] == ["deep/3.jpg", "0.jpg"]
    np.testing.assert_array_equal(train[1].label, labels(1))
    given.check()


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("", "names no image"),
        ("4\n4.jpg", "names 4 more than once"),
        ("\ufeff9", "names 9, and there is no such image"),
        ("4.png", r"names 4\.png, and there is no such image in .*images"),
        ("1", "names 1, and there is no such image"),
        ("deep/5", r"5\.jpg has no mask: there is no .*labels/deep/5\.png"),
    ],
)
def test_a_list_that_cannot_be_is_told(tmp_path, text, because):
    lists(tmp_path)
    (tmp_path / "one.txt").write_text(text)
    with pytest.raises(UserError, match=because):
        inputs(tmp_path, train_list="one.txt").open("train")
    with pytest.raises(UserError, match=r"nine\.txt cannot be read"):
        inputs(tmp_path, train_list="nine.txt").open("train")


def test_lists_work_with_polygons(tmp_path):
    write_classes(tmp_path, masks="polygons")
    for name in ("x/0.png", "1.png", "2.png"):
        write_image(tmp_path, name)
    write_coco(tmp_path, "train", coco(images=("x/0.png", "1.png", "2.png")))
    (tmp_path / "train.txt").write_text("2\nx/0.png\n")
    source = inputs(tmp_path, train_list="train.txt").open("train")
    assert [source.name(i) for i in range(len(source))] == ["2.png", "x/0.png"]
    assert (source[0].label == 255).all()


def folders(tmp_path, sizes=(6, 3, 2)):
    """Folders with masks of numbers, of numbers that are mapped, and of colours."""
    roots = [tmp_path / name for name in ("a", "b", "c")][: len(sizes)]
    for number, (root, size) in enumerate(zip(roots, sizes, strict=True)):
        kinds = ({}, {"label_map": {"5": 0, "6": 1, "7": 2}}, {"masks": "colours"})
        write_classes(root, **kinds[number])
        for i in range(size):
            write_image(root, f"train/{i}.jpg", i)
            mask = labels(10 * number + i)
            stored = (mask, mask + 5, coloured(mask))[number]
            write_mask(root, f"train/{i}.png", stored)
    write_image(roots[0], "val/0.jpg")
    write_mask(roots[0], "val/0.png", labels())
    return tuple(map(str, roots))


def test_several_folders_are_one_data_set(tmp_path):
    roots = folders(tmp_path)
    train = inputs(folders=roots).open("train")
    names = [train.name(i) for i in range(len(train))]
    assert names[:2] == ["a/0.jpg", "a/1.jpg"] and names[6] == "b/0.jpg" and len(names) == 11
    for index, (folder, number) in enumerate([*((0, i) for i in range(6)), (1, 0), (1, 1), (1, 2)]):
        np.testing.assert_array_equal(train[index].label, labels(10 * folder + number))
    np.testing.assert_array_equal(train[9].label, labels(20))
    val = inputs(folders=roots).open("val")
    assert len(val) == 1 and val.name(0) == "a/0.jpg"
    seen = [index for step in (1, 2, 3) for index in inputs(folders=roots).batch_indices(step)][:11]
    assert sorted(seen) == list(range(11))  # an epoch of all


def test_weights_say_how_often_each_folder_is_taken(tmp_path):
    roots = folders(tmp_path)
    given = inputs(folders=roots, folder_weights=(1.0, 2.0, 5.0))
    examples = order.in_order(range(11), 0, order.parts((6, 3, 2), (1.0, 2.0, 5.0)))
    taken = [int(examples[i]) for i in range(64)]
    assert given.batch_indices(7) == taken[24:28]
    counts = collections.Counter("a" if i < 6 else "b" if i < 9 else "c" for i in taken)
    assert all(abs(counts[part] - share) <= 1 for part, share in (("a", 8), ("b", 16), ("c", 40)))
    for start, stop in ((0, 6), (6, 9), (9, 11)):
        own = [i for i in taken if start <= i < stop]
        size = stop - start
        for epoch in range(min(len(own) // size, 3)):  # each folder has its own epochs
            assert sorted(own[epoch * size : (epoch + 1) * size]) == list(range(start, stop))


def test_weighted_batches_resume_and_do_not_depend_on_who_reads_them(tmp_path):
    roots = folders(tmp_path)
    given = inputs(folders=roots, folder_weights=(1.0, 2.0, 5.0))

    def batches(count, **options):
        stream = given.train_batches(**options)
        taken = list(itertools.islice(stream, count))
        stream.close()
        return taken

    whole, rest = batches(5), batches(2, start_step=3)
    halves = [batches(1, start_step=2, rows=rows)[0] for rows in (range(2), range(2, 4))]
    for key in ("image", "label"):
        np.testing.assert_array_equal(whole[3][key], rest[0][key])
        np.testing.assert_array_equal(whole[4][key], rest[1][key])
        np.testing.assert_array_equal(whole[2][key], np.concatenate([h[key] for h in halves]))


def test_without_weights_the_order_is_that_of_one_folder():
    plain, parts = order.in_order(range(9), 5), order.in_order(range(9), 5, ())
    assert [plain[i] for i in range(30)] == [parts[i] for i in range(30)]


def test_folders_that_do_not_go_together_are_told(tmp_path):
    roots = folders(tmp_path)
    write_classes(tmp_path / "b", classes=["sky", "road", "car"])
    with pytest.raises(UserError, match=r"b has the classes sky, road, car, and .*a has road, sky"):
        inputs(folders=roots).open("train")
    base = {"data.name": "folder", "data.folders": ("a", "b"), "model.num_classes": 3}
    with pytest.raises(UserError, match=r"data\.folders and config\.data_dir exclude"):
        files.load("camvid", data_dir="x", **base)
    with pytest.raises(UserError, match=r"has 1 number, and config\.data\.folders 2 folders"):
        files.load("camvid", **base, **{"data.folder_weights": (1.0,)})
    with pytest.raises(
        UserError, match=r"no folder b,c, .* as --config\.data\.folders=\"\('a','b'\)"
    ):
        inputs(folders=("b,c",)).open("train")
    with pytest.raises(UserError, match="camvid does not read it"):
        datasets.describe(Data(name="camvid", folders=("a",)), "")


def test_folders_of_the_same_name_are_numbered(tmp_path):
    roots = []
    for parent in ("x", "y"):
        root = tmp_path / parent / "same"
        write_classes(root)
        both_splits(root, lambda name, root=root: write_mask(root, name, labels()))
        roots.append(str(root))
    val = inputs(folders=tuple(roots)).open("val")
    assert [val.name(i) for i in range(len(val))] == ["0/a.png", "1/a.png"]
