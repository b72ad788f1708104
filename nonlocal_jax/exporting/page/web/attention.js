// The weights of a position, and what they say. A place is [frame, row, column].

// Which position of the queries' map a pixel is in. Single precision, as in the network.
function positionAt(item, point) {
  const sizes = [item.frames, item.height, item.width];
  return point.map((place, axis) => {
    const relative = Math.fround(Math.fround(place + 0.5) / sizes[axis]);
    return Math.floor(Math.fround(relative * item.space[axis]));
  });
}

// The pixel in the middle of a position.
function pixelAt(item, position, space) {
  const sizes = [item.frames, item.height, item.width];
  return position.map((place, axis) => Math.floor(((place + 0.5) / space[axis]) * sizes[axis]));
}

function flat([frame, row, column], [, rows, columns]) {
  return (frame * rows + row) * columns + column;
}

function unflat(index, [, rows, columns]) {
  const column = index % columns;
  const row = Math.floor(index / columns) % rows;
  return [Math.floor(index / (rows * columns)), row, column];
}

// query_i . key_j for all j; with the kind "relu" it is query_i + key_j.
function scoresOf(item, index) {
  const { query, key, queryScales, keyScales, channels } = item;
  const scores = new Float64Array(keyScales.length);
  const start = index * channels;
  for (let j = 0; j < scores.length; j++) {
    const other = j * channels;
    if (item.kind === "relu") {
      scores[j] = query[start] * queryScales[index] + key[other] * keyScales[j];
      continue;
    }
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += query[start + c] * key[other + c];
    scores[j] = sum * queryScales[index] * keyScales[j];
  }
  return scores;
}

function softmax(scores) {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  const weights = scores.map((score) => Math.exp(score - highest));
  const total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
}

const NORMALISED = {
  softmax,
  mean: (scores) => scores.map((score) => score / scores.length),
  relu: (scores) => scores.map((score) => Math.max(score, 0) / scores.length),
};

function weightsAt(item, position) {
  const weights = NORMALISED[item.kind](scoresOf(item, flat(position, item.space)));
  if (item.unary === null) return weights;
  return weights.map((weight, j) => (weight + item.unary[j]) / 2);
}

// Shares of the positive weights, which sum to one.
function sharesOf(weights) {
  const positive = weights.map((weight) => Math.max(weight, 0));
  const total = positive.reduce((a, b) => a + b);
  return total > 0 ? positive.map((weight) => weight / total) : positive;
}

// Shares in units of an even share; without positive weights, all are even.
function multiplesOf(shares) {
  const some = shares.some((share) => share > 0);
  return shares.map((share) => (some ? share * shares.length : 1));
}

// The share of the twentieth of positions with the largest weights, and the perplexity: the number
// of equal weights with the same entropy.
function concentration(shares) {
  const sorted = shares.slice().sort((a, b) => b - a);
  const top = sorted.subarray(0, Math.ceil(shares.length / 20)).reduce((a, b) => a + b);
  const entropy = shares.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
  return { top, perplexity: Math.exp(entropy) };
}

function peakOf(weights) {
  return weights.reduce((best, weight, j) => (weight > weights[best] ? j : best), 0);
}

// For each pixel of the mask, the position of the keys' map that it is in; and pixels in each.
function cover(item) {
  const [height, width] = item.shown;
  const [, rows, columns] = item.keySpace;
  const cells = new Uint32Array(height * width);
  const counts = new Uint32Array(rows * columns);
  for (let y = 0, p = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) / height) * rows);
    for (let x = 0; x < width; x++, p++) {
      cells[p] = row * columns + Math.floor(((x + 0.5) / width) * columns);
      counts[cells[p]]++;
    }
  }
  return { cells, counts };
}

// The share of the picture that each class covers.
function areasOf(item) {
  if (item.areas === undefined) {
    item.areas = new Map();
    for (const label of item.mask) item.areas.set(label, (item.areas.get(label) ?? 0) + 1);
    for (const [label, count] of item.areas) item.areas.set(label, count / item.mask.length);
  }
  return item.areas;
}

// [class, share] by share: a position's weight is split over the pixels that it covers.
function byClass(item, shares) {
  item.cover ??= cover(item);
  const { cells, counts } = item.cover;
  const sums = new Map();
  for (let p = 0; p < cells.length; p++) {
    const label = item.mask[p];
    sums.set(label, (sums.get(label) ?? 0) + shares[cells[p]] / counts[cells[p]]);
  }
  return [...sums].sort((a, b) => b[1] - a[1]);
}

// [frame of the block, share] in order.
function byFrame(item, shares) {
  const [frames, rows, columns] = item.keySpace;
  return Array.from({ length: frames }, (_, frame) => {
    const part = shares.subarray(frame * rows * columns, (frame + 1) * rows * columns);
    return [frame, part.reduce((a, b) => a + b)];
  });
}

function classAt(item, [, row, column]) {
  if (item.mask === null) return null;
  const [height, width] = item.shown;
  const y = Math.floor(((row + 0.5) / item.height) * height);
  const x = Math.floor(((column + 0.5) / item.width) * width);
  return item.mask[y * width + x];
}
