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
  return `${(100 * share).toFixed(share < 0.01 ? 2 : share < 0.1 ? 1 : 0)}%`;
}

function times(factor) {
  return `${factor < 10 ? factor.toFixed(1) : Math.round(factor)} times`;
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
    share: shares[peak],
    multiples: multiplesOf(shares),
    peakLabel: classAt(item, place),
    ...concentration(shares),
    count: shares.length,
    parts: item.mask === null ? byFrame(item, shares) : byClass(item, shares),
  };
}

// A tick in the bar shows the share of the picture: a point that attends evenly would reach it.
function shareRow(name, share, even, largest) {
  const row = element("div", "share");
  const bar = element("span"), filled = element("i"), tick = element("i", "tick");
  filled.style.width = `${(100 * share) / largest}%`;
  tick.style.left = `${(100 * even) / largest}%`;
  bar.append(filled, tick);
  row.append(name, bar, element("b", "", percent(share)));
  return row;
}

// The rows of largest share; frames stay in their order.
function shareRows(data, item, parts) {
  const shown = item.mask === null ? parts : parts.slice(0, MOST_SHARES);
  const even = ([part]) => (item.mask === null ? 1 / parts.length : areasOf(item).get(part));
  const largest = Math.max(...shown.map((part) => Math.max(part[1], even(part))));
  return shown.map((part) => {
    const name = item.mask === null ? element("span", "", frameName(item, part[0])) : swatch(data, part[0]);
    return shareRow(name, part[1], even(part), largest);
  });
}

// The frames of the clip that a frame of the block stands for.
function frameName(item, frame) {
  const each = item.frames / item.keySpace[0];
  const first = Math.ceil(frame * each), last = Math.ceil((frame + 1) * each) - 1;
  return first === last ? `frame ${first}` : `frames ${first} to ${last}`;
}

function weightName(item, weight) {
  return item.kind === "softmax" ? `${Number((100 * weight).toPrecision(2))}%` : weight.toPrecision(3);
}

function showReading(data, item, reading) {
  const { point, label, place, peakLabel } = reading;
  byId("point").replaceChildren(
    label === null ? strongWith(`Frame ${point[0]}`) : strongWith("", swatch(data, label)),
    element("div", "quiet", placeName(item, point)),
  );
  byId("shares-title").textContent = item.mask === null
    ? "It attends to these frames (tick: an even share)"
    : "It attends to these classes (tick: share of the picture)";
  byId("shares").replaceChildren(...shareRows(data, item, reading.parts));
  byId("peak").replaceChildren(
    strongWith(weightName(item, reading.weight), ...(peakLabel === null ? [] : ["on ", swatch(data, peakLabel)])),
    element("div", "quiet", `${placeName(item, place)}; ${times(reading.share * reading.count)} an even share`),
  );
  byId("peaked").replaceChildren(
    strongWith(percent(reading.top), reading.count < 20 ? "in the top position" : "in the top 5% of positions"),
    element("div", "quiet", `as even as ${reading.perplexity.toFixed(1)} of ${reading.count} positions (perplexity)`),
  );
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

// The multiples of an even share that colours of the bar stand for.
function showMultiples({ least, most }) {
  for (let power = least; power <= most; power += 2) {
    const text = power === 0 ? "even share" : power > 0 ? `${2 ** power}x` : `1/${2 ** -power}x`;
    const label = element("span", "", text), place = (100 * (power - least)) / (most - least);
    label.style.left = `${place}%`;
    label.style.transform = `translateX(-${place}%)`;
    byId("multiples").append(label);
  }
}

function showLegend(data, item) {
  const rows = [];
  if (item.top !== null) {
    for (const [name, share] of item.top) rows.push(element("li", "", `${percent(share)} ${name}`));
  } else {
    for (const [label, area] of [...areasOf(item)].sort((a, b) => b[1] - a[1])) {
      const row = element("li", "class");
      row.append(swatch(data, label), element("span", "quiet", percent(area)));
      rows.push(row);
    }
  }
  byId("legend").replaceChildren(...rows);
  byId("legend").ariaLabel = item.top === null ? "Classes in this picture" : "Most probable classes";
}
