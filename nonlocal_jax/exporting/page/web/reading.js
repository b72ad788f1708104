// What a point's weights say, in words and bars. Names reach the page as text, never as HTML.

const MOST_SHARES = 5;

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

function placeName(item, [frame, row, column]) {
  const place = `row ${row}, column ${column}`;
  return item.frames > 1 ? `frame ${frame}, ${place}` : place;
}

function className(data, label) {
  return data.classes[label] ?? "no class";
}

function swatch(data, label) {
  const made = element("span", "class");
  const colour = element("i");
  colour.style.background = `rgb(${(data.palette[label] ?? [128, 128, 128]).join()})`;
  made.append(colour, className(data, label));
  return made;
}

function strongWith(text, ...more) {
  const made = document.createDocumentFragment();
  made.append(element("strong", "", text), ...more);
  return made;
}

// Everything that is told of a point.
function readingOf(data, item, point, weights) {
  const shares = sharesOf(weights);
  const peak = peakOf(weights);
  const place = pixelAt(item, unflat(peak, item.keySpace), item.keySpace);
  return {
    point,
    label: classAt(item, point),
    place,
    weight: weights[peak],
    peakLabel: classAt(item, place),
    ...concentration(shares),
    count: shares.length,
    parts: item.mask === null ? byFrame(item, shares) : byClass(item, shares),
  };
}

function shareRow(name, share, largest) {
  const row = element("div", "share");
  const bar = element("span");
  const filled = element("i");
  filled.style.width = `${(100 * share) / largest}%`;
  bar.append(filled);
  row.append(name, bar, element("b", "", percent(share)));
  return row;
}

// The rows of largest share; frames stay in their order.
function shareRows(data, item, parts) {
  const largest = parts.reduce((most, [, share]) => Math.max(most, share), 1e-12);
  if (item.mask === null) {
    return parts.map(([f, share]) => shareRow(element("span", "", frameName(item, f)), share, largest));
  }
  return parts.slice(0, MOST_SHARES).map(([label, share]) => shareRow(swatch(data, label), share, largest));
}

// The frames of the clip that a frame of the block stands for.
function frameName(item, frame) {
  const each = item.frames / item.keySpace[0];
  const first = Math.ceil(frame * each), last = Math.ceil((frame + 1) * each) - 1;
  return first === last ? `frame ${first}` : `frames ${first} to ${last}`;
}

function weightName(item, weight) {
  return item.kind === "softmax" ? percent(weight) : weight.toPrecision(3);
}

function showReading(data, item, reading) {
  const { point, label, place, peakLabel } = reading;
  byId("point").replaceChildren(
    label === null ? strongWith(`Frame ${point[0]}`) : strongWith("", swatch(data, label)),
    element("div", "quiet", placeName(item, point)),
  );
  byId("shares-title").textContent = item.mask === null ? "It attends to these frames" : "It attends to these classes";
  byId("shares").replaceChildren(...shareRows(data, item, reading.parts));
  byId("peak").replaceChildren(
    strongWith(weightName(item, reading.weight), ...(peakLabel === null ? [] : ["on ", swatch(data, peakLabel)])),
    element("div", "quiet", placeName(item, place)),
  );
  byId("peaked").replaceChildren(
    strongWith(percent(reading.top), "in the top 5% of positions"),
    element("div", "quiet", `as even as ${reading.perplexity.toFixed(1)} of ${reading.count} positions (perplexity)`),
  );
  byId("highest").textContent = weightName(item, reading.weight);
}

// The same for a screen reader, in two or three sentences.
function spokenReading(data, item, reading) {
  const named = reading.label === null ? "" : `, ${className(data, reading.label)}`;
  const name = ([part]) => (item.mask === null ? frameName(item, part) : className(data, part));
  const most = [...reading.parts].sort((a, b) => b[1] - a[1]).slice(0, 2);
  const shares = most.map((part) => `${percent(part[1])} to ${name(part)}`).join(", ");
  const on = reading.peakLabel === null ? "" : `, ${className(data, reading.peakLabel)}`;
  return `Point at ${placeName(item, reading.point)}${named}. Attends ${shares}. ` +
    `Peak at ${placeName(item, reading.place)}${on}.`;
}

function showLegend(data, item) {
  const rows = [];
  if (item.top !== null) {
    for (const [name, share] of item.top) rows.push(element("li", "", `${percent(share)} ${name}`));
  } else {
    const pixels = new Map();
    for (const label of item.mask) pixels.set(label, (pixels.get(label) ?? 0) + 1);
    for (const [label, count] of [...pixels].sort((a, b) => b[1] - a[1])) {
      const row = element("li", "class");
      row.append(swatch(data, label), element("span", "quiet", percent(count / item.mask.length)));
      rows.push(row);
    }
  }
  byId("legend").replaceChildren(...rows);
  byId("legend").ariaLabel = item.top === null ? "Classes in this picture" : "Most probable classes";
}
