// From the text of the page's data to arrays and pixels.

function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

function integersOf(text, bits) {
  const { buffer } = bytesOf(text);
  return bits === 8 ? new Int8Array(buffer) : new Int16Array(buffer);
}

function floatsOf(text) {
  return new Float32Array(bytesOf(text).buffer);
}

async function inflated(text) {
  const packed = new Blob([bytesOf(text)]).stream();
  const stream = packed.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function makeCanvas(height, width) {
  const canvas = document.createElement("canvas");
  canvas.height = height;
  canvas.width = width;
  return canvas;
}

// A canvas for each frame; a picture is a single one. The file has them in a grid.
async function framesOf(item) {
  const sheet = new Image();
  sheet.src = item.picture;
  await sheet.decode();
  const [height, width] = item.shown;
  return Array.from({ length: item.frames }, (_, frame) => {
    const canvas = makeCanvas(height, width);
    const left = (frame % item.columns) * width;
    const top = Math.floor(frame / item.columns) * height;
    canvas.getContext("2d", { willReadFrequently: true })
      .drawImage(sheet, left, top, width, height, 0, 0, width, height);
    return canvas;
  });
}

// Brightness of each pixel: what lies under a heat map.
function greyOf(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const grey = new Uint8Array(data.length / 4);
  for (let i = 0; i < grey.length; i++) {
    grey[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  }
  return grey;
}

async function decoded(item) {
  const frames = await framesOf(item);
  return {
    ...item,
    pictures: frames,
    greys: frames.map(greyOf),
    mask: item.mask === null ? null : await inflated(item.mask),
    query: integersOf(item.query, item.bits),
    key: integersOf(item.key, item.bits),
    queryScales: floatsOf(item.queryScales),
    keyScales: floatsOf(item.keyScales),
    unary: item.unary === null ? null : floatsOf(item.unary),
  };
}
