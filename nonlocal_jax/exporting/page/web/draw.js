// Pictures on canvases: heat maps, tints, marks, the colour bar.

const FRAME_WIDTH = 150; // CSS pixels that a frame of a video has at least
const GAP = 4; // CSS pixels between frames

// For each of `length` pixels, both neighbours among `count` positions and the share of the second.
function neighbours(length, count) {
  const low = new Uint32Array(length), high = new Uint32Array(length);
  const share = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const place = Math.min(Math.max(((i + 0.5) / length) * count - 0.5, 0), count - 1);
    low[i] = Math.floor(place);
    high[i] = Math.min(low[i] + 1, count - 1);
    share[i] = place - low[i];
  }
  return { low, high, share };
}

// Where the colour of a multiple of an even share is in a table of 256 colours.
function colourAt(multiple, { least, most }) {
  const place = (Math.log2(Math.max(multiple, 2 ** least)) - least) / (most - least);
  return 3 * Math.floor(255 * Math.min(place, 1));
}

// One frame in grey with the colours of its multiples over it, as reporting/attention.py draws them.
function heatFrame(item, frame, multiples, colours, scale) {
  const [height, width] = item.shown;
  const [frames, rows, columns] = item.keySpace;
  const first = Math.floor((frame * frames) / item.frames) * rows * columns;
  const down = neighbours(height, rows), across = neighbours(width, columns);
  const canvas = makeCanvas(height, width);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const grey = item.greys[frame], { opacity } = scale;
  for (let y = 0, p = 0; y < height; y++) {
    const upper = first + down.low[y] * columns, lower = first + down.high[y] * columns;
    for (let x = 0; x < width; x++, p++) {
      const left = across.low[x], right = across.high[x], share = across.share[x];
      const above = multiples[upper + left] * (1 - share) + multiples[upper + right] * share;
      const below = multiples[lower + left] * (1 - share) + multiples[lower + right] * share;
      const chosen = colourAt(above + (below - above) * down.share[y], scale);
      const under = (1 - opacity) * grey[p];
      for (let c = 0; c < 3; c++) image.data[4 * p + c] = opacity * colours[chosen + c] + under;
      image.data[4 * p + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// One frame tinted by class; `opacity` is from 0 to 1.
function tintFrame(picture, mask, palette, opacity) {
  const { height, width } = picture;
  const canvas = makeCanvas(height, width);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  if (mask === null) return canvas;
  const image = context.getImageData(0, 0, width, height);
  for (let p = 0; p < mask.length; p++) {
    const colour = palette[mask[p]];
    for (let c = 0; colour && c < 3; c++) {
      image.data[4 * p + c] += (colour[c] - image.data[4 * p + c]) * opacity;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Where frames lie on a canvas, in CSS pixels.
function layout(item, canvas) {
  const room = canvas.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(canvas.parentElement).paddingLeft);
  const columns = Math.max(Math.min(item.frames, Math.floor(room / FRAME_WIDTH)), 1);
  const rows = Math.ceil(item.frames / columns);
  const tallest = item.frames > 1 ? Infinity : Math.max(window.innerHeight * 0.7, 240);
  const full = (room - (columns - 1) * GAP) / columns;
  const width = Math.min(full, (tallest * item.width) / item.height);
  const height = (width * item.height) / item.width;
  return {
    columns, width, height,
    all: [rows * (height + GAP) - GAP, columns * (width + GAP) - GAP],
    at: (frame) => [Math.floor(frame / columns) * (height + GAP), (frame % columns) * (width + GAP)],
  };
}

// Draws frames on a canvas, with marks: {point, draw}, where point is [frame, row, column].
function drawFrames(canvas, item, frames, marks) {
  const place = layout(item, canvas);
  const density = window.devicePixelRatio || 1;
  canvas.style.width = `${place.all[1]}px`;
  canvas.style.height = `${place.all[0]}px`;
  canvas.width = Math.round(place.all[1] * density);
  canvas.height = Math.round(place.all[0] * density);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  frames.forEach((frame, number) => {
    const [top, left] = place.at(number);
    context.drawImage(frame, left, top, place.width, place.height);
  });
  for (const { point: [frame, row, column], draw } of marks) {
    const [top, left] = place.at(frame);
    const y = top + ((row + 0.5) / item.height) * place.height;
    draw(context, y, left + ((column + 0.5) / item.width) * place.width);
  }
}

// The pixel under a pointer; null between frames.
function pointUnder(event, canvas, item) {
  const box = canvas.getBoundingClientRect(), place = layout(item, canvas);
  const y = ((event.clientY - box.top) / box.height) * place.all[0];
  const x = ((event.clientX - box.left) / box.width) * place.all[1];
  const across = Math.min(Math.max(Math.floor(x / (place.width + GAP)), 0), place.columns - 1);
  const frame = Math.max(Math.floor(y / (place.height + GAP)), 0) * place.columns + across;
  if (frame >= item.frames) return null;
  const [top, left] = place.at(frame);
  const inside = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  const row = inside((y - top) / place.height, item.height);
  return [frame, row, inside((x - left) / place.width, item.width)];
}

function twice(context, path, inner) {
  for (const [width, colour] of [[5, "#000"], [2, inner]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.beginPath();
    path();
    context.stroke();
  }
}

function drawCross(context, y, x) {
  twice(context, () => {
    context.moveTo(x - 9, y);
    context.lineTo(x + 9, y);
    context.moveTo(x, y - 9);
    context.lineTo(x, y + 9);
  }, "#00e5ff");
}

function drawRing(context, y, x) {
  twice(context, () => context.arc(x, y, 8, 0, 2 * Math.PI), "#fff");
}

// The scale of the colours over a mean grey.
function drawBar(canvas, colours, { opacity }, grey) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = opacity * colours[3 * i + c] + (1 - opacity) * grey;
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
