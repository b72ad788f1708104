// The visitor's own picture: the network itself, an ONNX model, runs in WebAssembly.

let running = null; // the promise of {ort, session}, once a picture was chosen

async function downloaded(name) {
  try {
    const response = await fetch(data.own.address + name);
    if (!response.ok) throw new Error(`status ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    const server = new URL(data.own.address).host;
    throw new Error(
      `${name} of onnxruntime-web could not be downloaded from ${server} (${error.message}). ` +
      "This page needs it for your own picture. A page made with --onnxruntime needs no download.",
    );
  }
}

// A file of onnxruntime-web: from the page, or else from its server, and then only the one whose
// digest is in the page.
async function runtimeFile(file) {
  if (file.content !== undefined) return inflated(file.content);
  const bytes = await downloaded(file.name);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== file.sha256) throw new Error(`${file.name} is another file than this page expects`);
  return bytes;
}

async function startModel() {
  const [script, binary] = await Promise.all(data.own.files.map(runtimeFile));
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const ort = await import(address);
  ort.env.wasm.numThreads = 1; // more need headers that a file has not
  ort.env.wasm.wasmBinary = binary;
  return { ort, session: await ort.InferenceSession.create(await inflated(data.own.model)) };
}

async function bitmapOf(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no picture that this browser can read.`);
  }
}

// What the network sees: the picture as large as fits into its scale (long and short side).
function seenBy(scale, bitmap) {
  const sides = [bitmap.height, bitmap.width];
  return canvasOf(bitmap, Math.min(
    Math.max(...scale) / Math.max(...sides), Math.min(...scale) / Math.min(...sides),
  ));
}

function canvasOf(bitmap, factor) {
  const sides = [bitmap.height, bitmap.width];
  const canvas = makeCanvas(...sides.map((side) => Math.max(Math.round(side * factor), 1)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function rgbOf(canvas) {
  const { data: rgba } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let p = 0; p < rgba.length / 4; p++) {
    for (let c = 0; c < 3; c++) rgb[3 * p + c] = rgba[4 * p + c];
  }
  return rgb;
}

// Classes of the pixels of a canvas, enlarged or shrunk to another one.
function resizedMask(mask, from, to) {
  const resized = new Uint8Array(to.height * to.width);
  for (let y = 0, p = 0; y < to.height; y++) {
    const start = Math.floor(((y + 0.5) / to.height) * from.height) * from.width;
    for (let x = 0; x < to.width; x++, p++) {
      resized[p] = Number(mask[start + Math.floor(((x + 0.5) / to.width) * from.width)]);
    }
  }
  return resized;
}

// The visitor's picture in the form of the page's own ones, with floats for integers.
function ownItem(name, bitmap, seen, results) {
  const { height, width } = bitmap;
  const shown = canvasOf(bitmap, Math.min(data.own.longest / Math.max(height, width), 1));
  const space = ({ dims }) => [1, dims[1], dims[2]];
  const { query, key, unary } = results;
  return {
    name, height, width, frames: 1, shown: [shown.height, shown.width], top: null, seen,
    pictures: [shown],
    greys: [greyOf(shown)],
    mask: resizedMask(results.indices.data, seen, shown),
    point: [0, height >> 1, width >> 1],
    kind: data.own.kind,
    space: space(query),
    keySpace: space(key),
    channels: query.dims[3],
    query: query.data,
    key: key.data,
    queryScales: new Float32Array(query.dims[1] * query.dims[2]).fill(1),
    keyScales: new Float32Array(key.dims[1] * key.dims[2]).fill(1),
    unary: unary === undefined ? null : unary.data,
  };
}

async function showOwn(file) {
  const state = byId("own-state");
  const tell = async (text, bad = false) => {
    state.textContent = text;
    state.classList.toggle("bad", bad);
    await new Promise((done) => setTimeout(done, 30)); // so that it is painted
  };
  try {
    const bitmap = await bitmapOf(file);
    const seen = seenBy(data.own.scale, bitmap);
    await tell("Starting the network ...");
    running ??= startModel().catch((error) => {
      running = null; // another picture tries again
      throw error;
    });
    const { ort, session } = await running;
    await tell("Computing ...");
    const start = performance.now();
    const images = new ort.Tensor("uint8", rgbOf(seen), [1, seen.height, seen.width, 3]);
    const results = await session.run({ images });
    const seconds = (performance.now() - start) / 1000;
    addPicture(ownItem(file.name, bitmap, seen, results));
    await tell(`${file.name}: the network saw ${seen.width} x ${seen.height} pixels, in ${seconds.toFixed(1)} s.`);
  } catch (error) {
    await tell(`That did not work: ${error.message}`, true);
  }
}

function offerOwn() {
  byId("own-text").textContent = data.own.text;
  byId("own-file").addEventListener("change", ({ target }) => {
    if (target.files.length > 0) showOwn(target.files[0]);
  });
}
