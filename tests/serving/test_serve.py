"""The server as a process: exact masks under load, refusals, slow clients, and its end."""

import io
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from evaluations import label, mixed_examples, picture, run_command, write_folder
from networks import NUM_CLASSES
from PIL import Image
from serving import TALL, Load, begin, checkpoint, decoded, huge_png, metrics, png, serving

from nonlocal_jax import serve
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.inputs import decode
from nonlocal_jax.reporting import outputs

READ_TIMEOUT, MAX_BYTES = 2, 100_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root, {"0": (picture(0), label(0))})
    return checkpoint(root, root / "checkpoint")


@pytest.fixture(scope="module")
def images():
    """Pictures of different sizes and contents."""
    return [image for image, _ in mixed_examples(12).values()]


@pytest.fixture(scope="module")
def model(saved):
    """What the server must agree with."""
    return predictor.load(saved)


@pytest.fixture(scope="module")
def masks(model, images):
    """The right answers."""
    return [model.predict(image) for image in images]


@pytest.fixture(scope="module")
def server(saved):
    """A server that is ready."""
    limits = (f"--read_timeout={READ_TIMEOUT}", f"--max_bytes={MAX_BYTES}", "--max_batch=4")
    with serving(saved, *limits, "--warm=50x50") as started:
        started.wait_until_ready()
        yield started


def test_each_of_many_clients_gets_the_predictors_mask_bit_for_bit(server, images, masks):
    assert len({mask.tobytes() for mask in masks}) == len(masks), "a mix-up would show"
    before = metrics(server.url)
    load = Load(server.url, images, masks, clients=24)
    load.run(rounds=4)
    assert load.wrong == [] and load.refused == 0 and len(load.seconds) == 96
    after = metrics(server.url)

    def grew(name):
        return after[name] - before[name]

    assert grew("nonlocal_jax_images_total") == grew("nonlocal_jax_batch_images_sum") == 96
    assert grew("nonlocal_jax_batch_images_count") < 70, "images that wait share a call"
    assert (
        after['nonlocal_jax_batch_images_bucket{le="4.0"}']
        == (after["nonlocal_jax_batch_images_count"])
    )
    assert after["nonlocal_jax_queue_length"] == 0
    assert after["nonlocal_jax_compilations_total"] <= 6
    assert "Compiling for images whose sides round up to " in "".join(server.said)


def test_an_overlay_is_that_of_predict(server, model, images, masks):
    whole = outputs.overlay(images[0], masks[0], model.class_names, model.palette)
    answer = httpx.post(f"{server.url}/overlay", content=png(images[0]))
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decoded(answer.content), whole)
    answer = httpx.post(f"{server.url}/overlay?legend=false&format=jpeg", content=png(images[0]))
    assert answer.headers["content-type"] == "image/jpeg"
    assert decoded(answer.content).shape == images[0].shape


def test_a_mask_has_the_palette_of_the_classes(server, model, images):
    content = httpx.post(f"{server.url}/mask", content=png(images[0])).content
    mask = Image.open(io.BytesIO(content))
    assert mask.mode == "P"
    np.testing.assert_array_equal(
        np.reshape(mask.getpalette()[: 3 * NUM_CLASSES], (-1, 3)), model.palette
    )


def test_json_counts_the_pixels_of_each_class(server, model, images, masks):
    told = httpx.post(f"{server.url}/json", content=png(images[0])).json()
    assert (told["height"], told["width"]) == images[0].shape[:2] and told["seconds"] > 0
    classes = {each["index"]: each for each in told["classes"]}
    assert set(classes) == set(np.unique(masks[0]).tolist())
    for index, each in classes.items():
        count = int((masks[0] == index).sum())
        assert each["pixels"] == count and each["name"] == model.class_names[index]
        assert each["share"] == pytest.approx(count / masks[0].size, abs=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16", "1", "JPEG", "rotated", "BMP"])
def test_any_image_is_read_as_predict_does(server, model, images, mode, tmp_path):
    image = Image.fromarray(images[1])
    path, options = tmp_path / "image.png", {}
    if mode in ("JPEG", "rotated"):
        path = tmp_path / "image.jpg"
        if mode == "rotated":
            exif = image.getexif()
            exif[0x0112] = 6
            options = {"exif": exif}
    elif mode == "BMP":
        path = tmp_path / "image.bmp"
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 251)
    else:
        image = image.convert(mode)
    image.save(path, **options)
    mask = decoded(httpx.post(f"{server.url}/mask", content=path.read_bytes()).content)
    np.testing.assert_array_equal(mask, model.predict(decode.read_image(path)))


def damaged_jpeg():
    """A JPEG without its end."""
    encoded = io.BytesIO()
    Image.fromarray(picture(1)).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()[:-300]


REFUSED = {
    "empty": ("POST", "/mask", b"", 400, "The body is empty"),
    "text": ("POST", "/mask", b"hello", 422, "The body is no image"),
    "a header alone": ("POST", "/mask", b"\x89PNG\r\n\x1a\n", 422, "The body is no image"),
    "damaged": ("POST", "/json", damaged_jpeg(), 422, "cannot be decoded as an image"),
    "huge": ("POST", "/overlay", huge_png(20000), 413, "400 million pixels"),
    "long": ("POST", "/mask", png(np.zeros((1, 16400, 3), np.uint8)), 413, "a side may have 16384"),
    "much": ("POST", "/mask", bytes(MAX_BYTES + 1), 413, "more than 100000 bytes"),
    "very much": ("POST", "/mask", bytes(10 * MAX_BYTES), 413, "more than 100000 bytes"),
    "path": ("POST", "/no", b"x", 404, "no such path"),
    "slash": ("POST", "/mask/", b"x", 404, "no such path"),
    "method": ("GET", "/mask", None, 405, "/mask takes POST, not GET"),
    "method of health": ("POST", "/health", b"x", 405, "not POST"),
    "option": ("POST", "/mask?legend=true", b"x", 400, "no option 'legend': it takes none"),
    "value": ("POST", "/overlay?legend=maybe", b"x", 400, "it must be true or false"),
    "twice": ("POST", "/overlay?format=png&format=png", b"x", 400, "given twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_in_one_sentence_of_json(server, case):
    method, path, body, status, message = REFUSED[case]
    assert body is None or len(body) < 60_000 or "much" in case
    answer = httpx.request(method, server.url + path, content=body)
    told = answer.json()
    assert answer.status_code == status and list(told) == ["error"]
    assert message in told["error"] and told["error"].endswith(".")
    assert ". " not in told["error"] and "Traceback" not in told["error"]
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_form_is_refused(server, images):
    answer = httpx.post(f"{server.url}/mask", files={"file": png(images[0])})
    assert answer.status_code == 415 and "not a form" in answer.json()["error"]


def test_a_chunked_body_is_bounded_too(server, images, masks):
    def parts(content):
        yield content[:50]
        yield content[50:]

    answer = httpx.post(f"{server.url}/mask", content=parts(png(images[0])))
    np.testing.assert_array_equal(decoded(answer.content), masks[0])
    answer = httpx.post(f"{server.url}/mask", content=parts(bytes(MAX_BYTES + 1)))
    assert answer.status_code == 413


def connect(server, sent):
    """A connection on which something was sent."""
    url = httpx.URL(server.url)
    connection = socket.create_connection((url.host, url.port), timeout=30)
    connection.sendall(sent)
    return connection


def read_all(connection):
    """What comes until the connection is closed."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def test_slow_clients_are_cut_off_and_disturb_nobody(server, images, masks):
    half = b"POST /mask HTTP/1.1\r\nHost: x\r\n"
    silent = [connect(server, b"") for _ in range(20)] + [connect(server, half) for _ in range(20)]
    slow = connect(server, half + b"Content-Length: 5000\r\n\r\nabc")
    answer = httpx.post(f"{server.url}/mask", content=png(images[0]))
    np.testing.assert_array_equal(decoded(answer.content), masks[0])
    assert [read_all(connection) for connection in silent] == [b""] * 40
    told = read_all(slow)
    assert told.startswith(b"HTTP/1.1 408 ") and b"did not come in 2 seconds" in told
    assert metrics(server.url)["nonlocal_jax_dropped_connections_total"] >= 40


def test_what_is_no_http_is_refused_in_json(server):
    head, _, body = read_all(connect(server, b"GARBAGE\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and "no valid HTTP" in json.loads(body)["error"]


def test_clients_that_leave_early_do_no_harm(server, images, masks):
    body = png(images[0])
    whole = b"POST /mask HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for sent in (whole, whole[:-20], b""):
        connect(server, sent).close()
    answer = httpx.post(f"{server.url}/mask", content=body)
    np.testing.assert_array_equal(decoded(answer.content), masks[0])


def test_the_page_uses_nothing_from_elsewhere(server):
    page = httpx.get(server.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "overlay" in page.text and "http" not in page.text.replace("<!doctype html>", "")


def test_metrics_are_in_prometheus_format(server):
    from prometheus_client.parser import text_string_to_metric_families

    httpx.get(f"{server.url}/a/path/{os.getpid()}")
    families = {f.name: f for f in text_string_to_metric_families(_metrics_text(server))}
    paths = {s.labels["path"] for s in families["nonlocal_jax_requests"].samples}
    assert "/mask" in paths and "other" in paths and len(paths) <= 7
    assert families["nonlocal_jax_request_seconds"].type == "histogram"


def _metrics_text(server):
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


def test_a_port_in_use_is_told_before_the_network_is_read(server, saved):
    port = httpx.URL(server.url).port
    done = run_command(serve, f"--checkpoint={saved}", f"--port={port}")
    assert done.returncode == 2 and f"Nothing can listen on port {port}" in done.stderr
    assert "The checkpoint is" not in done.stdout


def test_a_network_for_videos_is_refused_before_it_is_read(saved):
    video = "--config=kinetics_i3d_nonlocal_8x8"
    done = run_command(serve, f"--checkpoint={saved}", video, "--port=0")
    assert done.returncode == 2 and "is for videos: use predict" in done.stderr
    assert "The checkpoint is" not in done.stdout


def test_sigterm_lets_what_was_begun_finish(saved, model, images):
    with serving(saved, "--warm=50x50", "--max_batch=2") as server, ThreadPoolExecutor() as pool:
        server.wait_until_ready()
        begun = begin(server, images[:5], pool)
        server.signal(signal.SIGTERM)
        server.wait_for("Stopping. Still to be answered: 5")
        for image, request in zip(images, begun, strict=False):
            mask = decoded(request.result().content)
            np.testing.assert_array_equal(mask, model.predict(np.resize(image, TALL)))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
        code, said = server.ended()
    assert code == 0 and ", 0 were cut off" in said and "Traceback" not in said
