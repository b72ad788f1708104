"""The network in the page, for the visitor's own picture: an ONNX model, and what runs it.

onnxruntime-web runs it in WebAssembly. Its two files are in the page, or the browser gets them from
a public server when the visitor chooses a picture. There, only the files with these digests are
accepted.
"""

import dataclasses
import pathlib

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.page.entry import LONGEST
from nonlocal_jax.exporting.page.packing import packed
from nonlocal_jax.models.attention_factors import Kind

VERSION = "1.30.0"
SERVER = "https://cdn.jsdelivr.net"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
DIGESTS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


@dataclasses.dataclass(frozen=True)
class OwnPicture:
    """What the page holds for visitors' pictures.

    Attributes:
      model: an ONNX model. Its input `images` is uint8 [1, h, w, 3]. Its outputs are `indices`
        [1, h, w], and `query`, `key` and perhaps `unary` of models/attention_factors.py.
      kind: how weights are computed: models/attention_factors.py.
      scale: long and short side that a picture is fitted into.
      runtime: content of each file of onnxruntime-web; empty if the browser gets them itself.
    """

    model: bytes
    kind: Kind
    scale: tuple[int, int]
    runtime: dict[str, bytes]

    def values(self) -> dict[str, object]:
        """For the page's JSON."""
        if self.runtime:
            files = [{"name": name, "content": packed(self.runtime[name])} for name in DIGESTS]
        else:
            files = [{"name": name, "sha256": digest} for name, digest in DIGESTS.items()]
        return {
            "text": self._text(),
            "model": packed(self.model),
            "kind": self.kind,
            "scale": self.scale,
            "longest": LONGEST,
            "address": f"{SERVER}/npm/onnxruntime-web@{VERSION}/dist/",
            "files": files,
        }

    def _text(self) -> str:
        text = (
            "The network runs in this browser, and your picture stays in it. It is resized to fit "
            f"into {max(self.scale)} x {min(self.scale)} pixels first."
        )
        if self.runtime:
            return text
        return (
            f"{text} Choosing a picture downloads onnxruntime-web {VERSION} (14 MB) from {SERVER}. "
            "Nothing else on this page needs an internet connection."
        )


def read_runtime(folder: pathlib.Path | None) -> dict[str, bytes]:
    """The files of onnxruntime-web in a folder, `dist` of the npm package; none for None.

    Raises:
      UserError: a file is not there.
    """
    files: dict[str, bytes] = {}
    for path in () if folder is None else [folder / name for name in DIGESTS]:
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"--onnxruntime: {path} cannot be read: {error.strerror or error}. "
                f"npm install onnxruntime-web@{VERSION} puts it into "
                "node_modules/onnxruntime-web/dist."
            ) from error
    return files
