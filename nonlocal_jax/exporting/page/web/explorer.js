// The page: which picture is shown, which point is marked, and how both are changed.

const data = JSON.parse(byId("data").textContent);
const colours = bytesOf(data.colours);
const loaded = data.items.map(() => null);
let wanted = 0; // the number of the picture that was chosen last
let item = null; // the decoded picture that is shown
let point = null; // frame, row and column of the marked pixel
let weights = null; // of the point, over the positions of item.keySpace
let reading = null; // what they say
let speaking = 0;

async function select(number) {
  wanted = number;
  loaded[number] ??= await decoded(data.items[number]);
  if (number !== wanted) return; // another one was chosen while this one was decoded
  item = loaded[number];
  [...byId("gallery").children].forEach((button, i) => button.setAttribute("aria-pressed", i === number));
  byId("panels").classList.toggle("stacked", item.frames === 1 && item.width > 2 * item.height);
  byId("attended").ariaLabel = `What a point of ${item.name} attends to`;
  byId("seen").ariaLabel = `${item.name} ${item.top === null ? "with its predicted classes" : "as the network saw it"}`;
  byId("seen-title").textContent = item.name;
  byId("tint-label").hidden = item.mask === null;
  byId("hint").textContent = item.frames > 1
    ? "Click anywhere, or use the arrow keys; Page Up and Page Down change the frame"
    : "Click or touch anywhere, or use the arrow keys";
  showLegend(data, item);
  const [grey] = item.greys;
  drawBar(document.querySelector("#bar canvas"), colours, data.scale, grey.reduce((a, b) => a + b) / grey.length);
  moveTo(item.point);
}

function moveTo(next) {
  const sizes = [item.frames, item.height, item.width];
  point = next.map((place, axis) => Math.min(Math.max(place, 0), sizes[axis] - 1));
  weights = weightsAt(item, positionAt(item, point));
  reading = readingOf(data, item, point, weights);
  showReading(data, item, reading);
  draw();
  clearTimeout(speaking); // while keys repeat, only the last point is read out
  speaking = setTimeout(() => { byId("spoken").textContent = spokenReading(data, item, reading); }, 200);
}

function draw() {
  if (item === null) return;
  const { multiples } = reading;
  const heat = item.pictures.map((_, frame) => heatFrame(item, frame, multiples, colours, data.scale));
  drawFrames(byId("attended"), item, heat, marks());
  drawSeen();
}

function drawSeen() {
  if (item === null) return;
  const opacity = byId("tint").value / 100;
  item.tinted = item.tinted?.opacity === opacity ? item.tinted : {
    opacity,
    frames: item.pictures.map((picture) => tintFrame(picture, item.mask, data.palette, opacity)),
  };
  drawFrames(byId("seen"), item, item.tinted.frames, marks());
}

function marks() {
  return [{ point: reading.place, draw: drawRing }, { point, draw: drawCross }];
}

// A step is one position of the queries' map.
function moveByKey(event) {
  const steps = {
    ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1],
    PageUp: [-1, 0, 0], PageDown: [1, 0, 0],
  };
  const step = steps[event.key];
  if (item === null || event.altKey || event.ctrlKey || event.metaKey) return;
  if (step === undefined || (step[0] !== 0 && item.frames === 1)) return;
  event.preventDefault();
  if (step[0] !== 0) return moveTo([point[0] + step[0], point[1], point[2]]);
  const far = event.shiftKey ? 5 : 1;
  const last = item.space.map((count) => count - 1);
  const position = positionAt(item, point)
    .map((place, axis) => Math.min(Math.max(place + far * step[axis], 0), last[axis]));
  const [, row, column] = pixelAt(item, position, item.space);
  moveTo([point[0], row, column]);
}

function followPointer(canvas) {
  const follow = (event) => {
    const found = item && pointUnder(event, canvas, item);
    if (found) moveTo(found);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.pointerType !== "touch") follow(event);
  });
  // A touch that scrolls the page is no click.
  canvas.addEventListener("click", follow);
  canvas.addEventListener("pointermove", (event) => { if (event.buttons === 1) follow(event); });
}

async function fillGallery() {
  const buttons = data.items.map(addButton);
  for (const [number, entry] of data.items.entries()) {
    const [first] = await framesOf({ ...entry, frames: 1 });
    buttons[number].prepend(thumbnail(first));
  }
}

// One picture needs no gallery to choose from. First frames of videos look alike, so they have names.
function addButton({ name, frames }) {
  const gallery = byId("gallery"), button = element("button");
  const number = gallery.children.length;
  button.type = "button";
  button.ariaLabel = name;
  button.title = name;
  if (frames > 1) button.append(element("span", "quiet", name));
  button.addEventListener("click", () => select(number));
  gallery.append(button);
  gallery.hidden = number === 0;
  return button;
}

// Adds a decoded picture, and shows it.
function addPicture(added) {
  const button = addButton(added);
  button.prepend(thumbnail(added.pictures[0]));
  loaded.push(added);
  select(loaded.length - 1);
  button.scrollIntoView({ block: "nearest" });
}

function thumbnail(first) {
  const height = 128, width = Math.max(Math.round((height * first.width) / first.height), 1);
  const canvas = makeCanvas(height, width);
  canvas.getContext("2d").drawImage(first, 0, 0, width, height);
  return canvas;
}

function followTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", isDark());
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();
}

function start() {
  byId("network").textContent = data.network;
  document.querySelector("footer").replaceChildren(...data.notes.map((note) => element("p", "", note)));
  showMultiples(data.scale);
  followTheme();
  followPointer(byId("attended"));
  followPointer(byId("seen"));
  byId("attended").addEventListener("keydown", moveByKey);
  byId("tint").addEventListener("input", drawSeen);
  addEventListener("resize", draw);
  fillGallery();
  if (data.own !== null) offerOwn();
  select(0);
}

// For programs that read the page.
window.explorer = {
  select,
  moveTo: (...place) => moveTo(place.length === 2 ? [0, ...place] : place),
  get item() { return item; },
  get point() { return point; },
  get weights() { return weights; },
  get peak() { return reading.place.slice(1); },
};

start();
