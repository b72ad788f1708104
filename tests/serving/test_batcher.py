"""The queue, with a network that is not one: batches, compiling, failures, and what is full."""

import asyncio
import logging
import threading
import time
import tracemalloc

import httpx
import numpy as np
import pytest
from serving import decoded, png
from starlette.requests import Request

from nonlocal_jax.errors import UserError
from nonlocal_jax.serving import app, limits, server
from nonlocal_jax.serving.batcher import Batcher, Job, QueueFull
from nonlocal_jax.serving.limits import Limits
from nonlocal_jax.serving.uploads import Uploads

WAIT = 30
SIZE = 5_000_000  # bytes of a body


class Fake:
    """An engine whose shapes are the height of an image, and whose mask is its first channel.

    Attributes:
      batches: sizes of the calls.
      compiled: heights with a program.
      go: the device, and the compiler, wait for it.
    """

    def __init__(self, most=4):
        self.batches, self.compiled, self.most = [], set(), most
        self.compiling, self.go, self.error = [], threading.Event(), None
        self.go.set()

    def shapes(self, size):
        return size[0]

    def rows(self, shapes):
        return self.most

    def is_compiled(self, shapes):
        return shapes in self.compiled

    def compile(self, shapes):
        self.compiling.append(shapes)
        assert self.go.wait(WAIT)
        if self.error:
            raise self.error
        self.compiled.add(shapes)

    def segment(self, shapes, images):
        assert self.go.wait(WAIT)
        if self.error:
            raise self.error
        assert {len(image) for image in images} == {shapes}
        self.batches.append(len(images))
        return [image[..., 0] for image in images]


def image(seed, height=6):
    return np.random.default_rng(seed).integers(0, 256, (height, 5, 3), np.uint8)


def job(picture):
    return Job(png(picture), picture.shape[:2], len(picture), lambda _, mask: mask.tobytes())


@pytest.fixture
def engine():
    return Fake()


@pytest.fixture
def batcher(engine):
    made = Batcher(engine, Limits(queue=6, max_pixels=10_000))
    yield made
    engine.go.set()
    made.close(WAIT)


def test_images_of_a_shape_share_calls_and_each_gets_its_own_mask(engine, batcher):
    engine.compiled = {6, 7}
    pictures = [image(seed, 6 + seed % 2) for seed in range(6)]
    jobs = [job(picture) for picture in pictures]
    for each in jobs:
        batcher.submit(each)
    batcher.start()
    for picture, each in zip(pictures, jobs, strict=True):
        assert each.answer.result(WAIT) == picture[..., 0].tobytes()
    assert engine.batches == [3, 3] and batcher.waiting() == 0


def test_no_call_has_more_images_than_rows(engine, batcher):
    engine.compiled, engine.most = {6}, 2
    jobs = [job(image(seed)) for seed in range(5)]
    for each in jobs:
        batcher.submit(each)
    batcher.start()
    assert [each.answer.result(WAIT) for each in jobs]
    assert sorted(engine.batches) == [1, 2, 2]


def test_what_has_its_program_does_not_wait_for_the_compiler(engine, batcher):
    engine.compiled = {6}
    batcher.start()
    engine.go.clear()
    late = job(image(0, 9))
    batcher.submit(late)
    while not engine.compiling:
        time.sleep(0.01)
    engine.segment = lambda shapes, images: [each[..., 0] for each in images]
    prompt = job(image(1))
    batcher.submit(prompt)
    assert prompt.answer.result(WAIT) and not late.answer.done()
    engine.go.set()
    assert late.answer.result(WAIT) and engine.compiling == [9]


def test_the_queue_is_bounded_and_cancelled_jobs_leave_it(batcher):
    jobs = [job(image(seed)) for seed in range(6)]
    for each in jobs:
        batcher.submit(each)
    assert batcher.full()
    with pytest.raises(QueueFull):
        batcher.submit(job(image(9)))
    assert jobs[2].answer.cancel()
    assert not batcher.full()
    batcher.submit(job(image(9)))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_failure_reaches_those_that_it_concerns_and_later_images_are_fine(
    engine, batcher, compiled
):
    engine.compiled, engine.error = {6} if compiled else set(), RuntimeError("no memory")
    batcher.start()
    failed = job(image(0))
    batcher.submit(failed)
    with pytest.raises(RuntimeError, match="no memory"):
        failed.answer.result(WAIT)
    engine.error = None
    fine = job(image(1))
    batcher.submit(fine)
    assert fine.answer.result(WAIT)


def test_a_damaged_image_costs_its_batch_nothing(engine, batcher):
    engine.compiled = {6}
    jobs = [job(image(seed)) for seed in range(3)]
    jobs[1].encoded = jobs[1].encoded[:-20]
    for each in jobs:
        batcher.submit(each)
    batcher.start()
    assert jobs[0].answer.result(WAIT) and jobs[2].answer.result(WAIT)
    with pytest.raises(UserError, match="cannot be decoded"):
        jobs[1].answer.result(WAIT)
    assert engine.batches == [2]


def test_closing_ends_the_threads_once_nothing_waits(engine, batcher):
    engine.go.clear()
    waiting = job(image(0))
    batcher.submit(waiting)
    batcher.start()
    assert not batcher.close(0.2)
    engine.go.set()
    assert waiting.answer.result(WAIT) and batcher.close(WAIT)


class Renderer:
    """Answers with the mask's bytes."""

    def render(self, answer, image, mask, begun):
        return png(np.ascontiguousarray(mask))


def ask(engine, *requests, state="ready", **given):
    """The answers of an application to requests that are sent together: (method, path, body)."""
    bounds = Limits(max_pixels=10_000, **given)
    batcher = Batcher(engine, bounds)
    service = app.Service(engine, batcher, Renderer(), bounds)
    service.state = state
    batcher.start()

    async def run():
        transport = httpx.ASGITransport(service.app(), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            calls = [client.request(m, path, content=body) for m, path, body in requests]
            return await asyncio.gather(*calls)

    try:
        return asyncio.run(run())
    finally:
        engine.go.set()
        assert batcher.close(WAIT)


@pytest.mark.parametrize(("state", "status"), [("warming", 503), ("ready", 200), ("stopping", 200)])
def test_it_is_healthy_if_it_takes_new_requests_and_finishes_what_it_has(engine, state, status):
    requests = ("GET", "/health", None), ("POST", "/mask", png(image(0)))
    health, mask = ask(engine, *requests, state=state)
    assert health.status_code == (200 if state == "ready" else 503)
    assert health.json() == {"status": state} and mask.status_code == status
    if status == 503:
        assert mask.headers["retry-after"] == "1"
        assert mask.json() == {"error": "The server is warming."}


def test_a_full_queue_answers_503_and_the_others_get_their_masks(engine):
    pictures = [image(seed) for seed in range(8)]
    threading.Timer(1.0, engine.go.set).start()
    engine.go.clear()
    answers = ask(engine, *(("POST", "/mask", png(each)) for each in pictures), queue=3)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 5 and all(answer.headers["retry-after"] == "1" for answer in refused)
    for picture, answer in zip(pictures, answers, strict=True):
        if answer.status_code == 200:
            np.testing.assert_array_equal(decoded(answer.content), picture[..., 0])


def test_an_image_that_waits_too_long_is_refused_and_forgotten(engine):
    engine.go.clear()
    (answer,) = ask(engine, ("POST", "/mask", png(image(0))), timeout=0.2)
    assert answer.status_code == 503 and "in 0.2 seconds" in answer.json()["error"]


def test_a_mistake_of_the_program_is_an_id_for_the_client_and_a_trace_in_the_log(engine, caplog):
    engine.compiled, engine.error = {6}, ZeroDivisionError("secret")
    with caplog.at_level(logging.ERROR):
        (answer,) = ask(engine, ("POST", "/mask", png(image(0))))
    told = answer.json()["error"]
    assert answer.status_code == 500 and "secret" not in told and "Traceback" not in told
    number = told.split()[-1].rstrip(".")
    assert number in caplog.text and "ZeroDivisionError: secret" in caplog.text


def test_a_body_is_in_memory_once():
    async def receive():
        return {"type": "http.request", "body": bytes(SIZE)}

    async def used():
        request = Request({"type": "http", "headers": []}, receive)
        async with Uploads(Limits()).body(request) as content:
            assert content == bytes(SIZE)
            return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert SIZE <= asyncio.run(used()) < 1.5 * SIZE
    finally:
        tracemalloc.stop()


def test_a_call_has_fewer_rows_of_very_large_images():
    bounds = Limits(max_batch=8, max_pixels=1_000_000)
    assert bounds.rows((100, 100)) == 8
    assert bounds.rows((600, 600)) == 2
    assert bounds.rows((2000, 2000)) == 1


@pytest.mark.parametrize("text", ["480", "0x5", "axb", "5x", "99999x5", "-1x5", ""])
def test_sizes_to_warm_are_checked(text):
    assert limits.parse_sizes(["480x640", " 5x6"]) == [(480, 640), (5, 6)]
    with pytest.raises(UserError, match="must be HEIGHTxWIDTH"):
        limits.parse_sizes([text])


def test_a_missing_package_is_told_with_its_command(monkeypatch):
    monkeypatch.setattr(limits, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(UserError, match=r"no_such_package: pip install 'nonlocal_jax\[serve\]'"):
        limits.check_installed()


def test_the_address(capsys):
    with server.bind("127.0.0.1", 0) as listening:
        assert server.address_of(listening).startswith("http://127.0.0.1:")
    assert capsys.readouterr().err == ""
    with server.bind("0.0.0.0", 0):
        assert "0.0.0.0 can be reached from other machines" in capsys.readouterr().err
    with pytest.raises(UserError, match="which is no address here"):
        server.bind("no.such.host.invalid", 0)
