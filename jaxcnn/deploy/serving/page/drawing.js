"use strict";
// Strokes of a pen, and the image that they become. The digits of MNIST were scaled, in their shape, into 20 of 28
// pixels and laid with their centre of mass into the middle (LeCun et al., 1998); drawings are treated alike. Images of
// fewer than 20 pixels a side, such as scikit-learn's digits, fill the whole side.

const PEN = 2.4 / 28; // width of the line, as a share of the side of the image
const FINE = 8; // the image is drawn this many times larger, and then averaged

const strokes = []; // lists of [x, y], in 0..1 of the area

function bounds() {
  const all = strokes.flat();
  const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

function paint(context, place, width) {
  context.fillStyle = "#000";
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    const points = stroke.map(place);
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
    if (points.length === 1) {
      context.beginPath();
      context.arc(...points[0], width / 2, 0, 7);
      context.fill();
    }
  }
}

function averaged(large, side) {
  const pixels = large.getImageData(0, 0, side * FINE, side * FINE).data;
  const sums = new Float64Array(side * side);
  for (let y = 0; y < side * FINE; y++) {
    for (let x = 0; x < side * FINE; x++) {
      sums[Math.floor(y / FINE) * side + Math.floor(x / FINE)] += pixels[4 * (y * side * FINE + x)];
    }
  }
  return sums.map((sum) => sum / FINE / FINE);
}

// Returns the gray values of the drawing, side * side, white on black, as in the training data.
function rendered(side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side * FINE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pen = PEN * side * FINE;
  const [left, top, right, bottom] = bounds();
  const extent = Math.max(right - left, bottom - top);
  const inner = (side < 20 ? 1 : 20 / 28) * side * FINE - pen; // the line is as wide as the pen
  const times = extent > 0.02 ? inner / extent : 0; // a dot stays a dot
  let shift = [0, 0];
  const place = ([x, y]) => [
    (x - (left + right) / 2) * times + (side * FINE) / 2 + shift[0],
    (y - (top + bottom) / 2) * times + (side * FINE) / 2 + shift[1],
  ];
  paint(context, place, pen);
  let values = averaged(context, side);
  if (side >= 20) {
    let mass = 0, x = 0, y = 0;
    values.forEach((v, i) => { mass += v; x += v * (i % side); y += v * Math.floor(i / side); });
    const middle = (side - 1) / 2;
    shift = [Math.round(middle - x / mass) * FINE, Math.round(middle - y / mass) * FINE];
    paint(context, place, pen);
    values = averaged(context, side);
  }
  return values;
}

// Draws gray values into a canvas of side * side pixels.
function fill(canvas, values, side) {
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  values.forEach((value, i) => {
    const gray = Math.round(value);
    image.data.set([gray, gray, gray, 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

// Lets a person draw into `pad` with a pointer or by keyboard.
function drawable(pad, changed, done) {
  const context = pad.getContext("2d");
  const pen = { x: 0.5, y: 0.3, down: false, shown: false };
  let current = null;

  function redraw() {
    paint(context, ([x, y]) => [x * pad.width, y * pad.height], PEN * pad.width);
    if (pen.shown) {
      context.strokeStyle = pen.down ? "#ff5252" : "#4fb0ec";
      context.lineWidth = 3;
      context.beginPath();
      context.arc(pen.x * pad.width, pen.y * pad.height, 9, 0, 7);
      context.stroke();
    }
  }

  function clear() {
    strokes.length = 0;
    current = null;
    pen.down = false;
    redraw();
    changed();
  }

  const place = (event) => {
    const box = pad.getBoundingClientRect();
    const inside = (x) => Math.min(Math.max(x, 0), 1);
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  };
  pad.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    pen.shown = pen.down = false;
    current = [place(event)];
    strokes.push(current);
    redraw();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!current || !pad.hasPointerCapture(event.pointerId)) return;
    current.push(place(event));
    redraw();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    pad.addEventListener(name, () => {
      if (!current) return;
      current = null;
      changed();
      done();
    });
  }
  pad.addEventListener("blur", () => { pen.shown = false; redraw(); });
  pad.addEventListener("focus", () => { pen.shown = pad.matches(":focus-visible"); redraw(); });
  pad.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (way) {
      const far = (event.shiftKey ? 4 : 1) / 28;
      pen.x = Math.min(Math.max(pen.x + way[0] * far, 0), 1);
      pen.y = Math.min(Math.max(pen.y + way[1] * far, 0), 1);
      if (pen.down) current.push([pen.x, pen.y]);
    } else if (event.key === " ") {
      pen.down = !pen.down;
      current = pen.down ? [[pen.x, pen.y]] : null;
      if (pen.down) strokes.push(current);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      clear();
    } else if (event.key === "Enter") {
      done();
    } else {
      return;
    }
    event.preventDefault();
    pen.shown = true;
    redraw();
    changed();
  });
  redraw();
  return clear;
}
