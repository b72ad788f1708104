"""Decoding equals the reference's decoders, and damaged or huge files are refused by name."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import nonlocal_jax
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import decode

RNG = np.random.default_rng(0)
PHOTO = cv2.resize(RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8), (61, 47))
TURNED = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06" + bytes(
    7
)


def encoded(array, kind, mode=None, **options):
    picture = Image.fromarray(array)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded(PHOTO, "JPEG", quality=92),
        encoded(PHOTO, "JPEG", subsampling=0),
        encoded(PHOTO, "JPEG", progressive=True),
        encoded(PHOTO, "JPEG", mode="L"),
        encoded(PHOTO, "JPEG", mode="CMYK"),
        encoded(PHOTO, "JPEG", exif=TURNED),
        encoded(PHOTO, "PNG"),
        encoded(PHOTO, "PNG", mode="L"),
        encoded(PHOTO, "PNG", mode="P"),
        encoded(PHOTO, "PNG", mode="RGBA"),
        encoded(PHOTO[..., 0].astype(np.uint16) * 257, "PNG"),
        encoded(PHOTO, "BMP"),
    ],
)
def test_images_decode_as_opencv_decodes_them(data):
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode.decode_image(data, "it"), expected)
    assert decode.image_size(data, "it") == expected.shape[:2]


def palette_png(mask, colours=None):
    picture = Image.fromarray(mask)
    picture.putpalette(colours or list(range(255, -1, -1)) * 3)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("top", [2, 14, 255])  # Pillow packs few colours into fewer bits
def test_masks_decode_to_their_numbers_whatever_their_palette(top):
    mask = RNG.integers(0, top, (13, 17), dtype=np.uint8)
    for data in (encoded(mask, "PNG"), palette_png(mask)):
        np.testing.assert_array_equal(decode.decode_label(data, "it"), mask)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), mask)
    wide = encoded(mask.astype(np.uint16), "PNG")
    np.testing.assert_array_equal(decode.decode_label(wide, "it"), mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_the_numbers_in_the_file(bits):
    mask = RNG.integers(0, 2**bits, (5, 11), dtype=np.uint8)
    places = np.arange(bits - 1, -1, -1)
    rows = np.packbits((mask[..., None] >> places & 1).reshape(5, -1), axis=1)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 11, 5, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(decode.decode_label(png, "it"), mask)


def test_masks_that_are_none():
    with pytest.raises(UserError, match=r'with 3 channels;.* "masks": "colours" in classes\.json'):
        decode.decode_label(encoded(PHOTO, "PNG"), "it")
    with pytest.raises(UserError, match="it holds 300"):
        decode.decode_label(encoded(np.full((2, 2), 300, np.uint16), "PNG"), "it")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files_are_named(kind):
    whole = encoded(PHOTO, kind)
    for data in (b"", b"junk", whole[: len(whole) // 2], whole[:20]):
        with pytest.raises(UserError, match=r"^that\.file cannot be decoded as an image"):
            decode.decode_image(data, "that.file")
    mask = encoded(PHOTO[..., 0], "PNG")
    for data in (b"", b"junk", mask[: len(mask) // 2], mask[:20]):
        with pytest.raises(UserError, match=r"^that\.file cannot be decoded as a mask"):
            decode.decode_label(data, "that.file")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_turned_as_exif_says(kind, monkeypatch):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(PHOTO, kind, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(decode.decode_image(data, "it"), expected)
        with monkeypatch.context() as patch:
            if kind in ("JPEG", "WEBP"):
                patch.delattr(decode, "decode_image")  # the header tells the size
            assert decode.image_size(data, "it") == expected.shape[:2]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def jpeg_with(*segments):
    """A JPEG with further APP1 segments, in this order."""
    whole = encoded(PHOTO, "JPEG")
    parts = [b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment for segment in segments]
    return whole[:2] + b"".join(parts) + whole[2:]


def test_a_size_is_that_of_the_decoded_image_whatever_else_is_in_the_header():
    xmp, upright = b"http://ns.adobe.com/xap/1.0/\0" + XMP, TURNED.replace(b"\6", b"\1")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(PHOTO, "PNG", exif=exif)
    at = turned.index(b"eXIf") - 4
    chunk = turned[at : at + 12 + int.from_bytes(turned[at : at + 4], "big")]
    late = turned.replace(chunk, b"")
    cases = [
        jpeg_with(xmp),
        jpeg_with(TURNED, xmp),
        jpeg_with(xmp, TURNED),
        jpeg_with(upright, xmp),
        jpeg_with(upright, TURNED),
        jpeg_with(TURNED, upright),
        jpeg_with(b"Exif\0\0junk"),
        jpeg_with(b"Exif\0\0II*\0ab"),
        encoded(PHOTO, "WEBP", xmp=XMP),
        encoded(PHOTO, "PNG", exif=b"junk"),
        late[:-12] + chunk + late[-12:],
    ]
    for data in cases:
        assert decode.image_size(data, "it") == decode.decode_image(data, "it").shape[:2]


def png(width, height, *, crc_is_right=True):
    """A PNG of a header alone, more or less."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content) ^ (not crc_is_right)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [png(0, 5), png(60, 48, crc_is_right=False)])
def test_a_header_that_cannot_be_true_is_refused(data):
    for function in (decode.image_size, decode.decode_image, decode.decode_label):
        with pytest.raises(UserError, match=r"^it cannot be decoded as"):
            function(data, "it")


@pytest.mark.parametrize(
    "data",
    [
        png(40_000, 40_000),
        png(2**31 - 1, 2**31 - 1),
        encoded(PHOTO, "JPEG").replace(struct.pack(">HH", 47, 61), b"\xff\x00\xff\x00"),
        encoded(PHOTO, "BMP").replace(struct.pack("<ii", 61, 47), struct.pack("<ii", 9**5, 9**5)),
    ],
    ids=["PNG", "absurd", "JPEG", "BMP"],
)
def test_too_many_pixels_are_refused_before_memory_is_taken(data):
    for function in (decode.image_size, decode.decode_image, decode.decode_label):
        with pytest.raises(
            UserError, match=r"^(it is \d+x\d+, .* million )|(it has too many )pixels"
        ):
            function(data, "it")


def test_the_limit_of_pixels_can_be_set():
    for data in (encoded(PHOTO, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")):
        assert decode.decode_image(data, "it", PHOTO[..., 0].size).shape == PHOTO.shape
        with pytest.raises(UserError, match=r"^it is 61x47, .* config\.data\.max_pixels=2866"):
            decode.decode_image(data, "it", PHOTO[..., 0].size - 1)


def flips(data, count):
    """Copies of a file, each with one bit flipped."""
    for position in np.random.default_rng(1).integers(8 * len(data), size=count):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        yield bytes(damaged)


def outcome(function, data, right):
    """Whether a damaged file is "refused", and if not, whether its pixels are "right"."""
    try:
        found = function(data, "it")
    except UserError:
        return "refused"
    return "right" if np.array_equal(found, right) else "wrong"


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "I;16"])
def test_a_flipped_bit_of_a_png_never_changes_a_pixel(mode):
    array = PHOTO[..., 0].astype(np.uint16) if mode == "I;16" else PHOTO
    data = encoded(array, "PNG", mode=None if mode == "I;16" else mode)
    functions = [decode.decode_image]
    if mode not in ("RGB", "RGBA"):
        functions.append(decode.decode_label)
    for function in functions:
        right = function(data, "it")
        found = {outcome(function, damaged, right) for damaged in flips(data, 150)}
        assert "wrong" not in found and "refused" in found


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": TURNED}, {"mode": "L"}])
def test_a_jpeg_that_its_decoder_warns_of_is_refused(options):
    """A JPEG has no checksums: what the decoder does not notice is decoded."""
    data = encoded(PHOTO, "JPEG", **options)
    right = decode.decode_image(data, "it")
    cut = data[: 3 * len(data) // 4] + b"\xff\xd9"
    with pytest.raises(UserError, match=r"^it cannot be decoded .* damaged \("):
        decode.decode_image(cut, "it")
    found = [outcome(decode.decode_image, damaged, right) for damaged in flips(data, 300)]
    tolerated = [cv2.imdecode(np.frombuffer(d, np.uint8), 1) is not None for d in flips(data, 300)]
    assert found.count("refused") > tolerated.count(False) + 20


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "BMP"])
def test_other_formats_that_are_cut_short_are_refused(kind):
    data = encoded(PHOTO, kind)
    for length in (len(data) // 3, len(data) - 40):
        with pytest.raises(UserError, match=r"^it cannot be decoded as an image"):
            decode.decode_image(data[:length], "it")


def test_a_file_is_read_by_its_path(tmp_path):
    (tmp_path / "photo.png").write_bytes(encoded(PHOTO, "PNG"))
    np.testing.assert_array_equal(nonlocal_jax.read_image(tmp_path / "photo.png"), PHOTO)
    with pytest.raises(UserError, match=r"no\.png cannot be read: No such file"):
        nonlocal_jax.read_image(str(tmp_path / "no.png"))
