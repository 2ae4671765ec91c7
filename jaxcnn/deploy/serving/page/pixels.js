"use strict";
// From a picture to the pixels of a training row, as the library reads files: gray or colour in 8 bits, and resized
// with a triangle as wide as the reduction, in whole numbers as Pillow does it: first along rows, then along columns.
// Versions of Pillow that sometimes begin with columns give values that differ by 1.

const BITS = 22; // of the weights of a sum
const GAP = 3; // a larger reduction begins with means over whole blocks

// Planes are { width, height, values }: one channel, row by row.
function planesOf(picture, channels) {
  const { width, height, data } = picture, planes = [];
  for (let c = 0; c < channels; c++) {
    const values = new Uint8Array(width * height);
    for (let i = 0; i < values.length; i++) {
      const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
      values[i] = channels === 1 ? (19595 * r + 38470 * g + 7471 * b + 32768) >> 16 : [r, g, b][c];
    }
    planes.push({ width, height, values });
  }
  return planes;
}

function even(x) { // Python's round()
  const low = Math.floor(x), rest = x - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

// Returns what is shown of a picture, [left, top, right, bottom], and the width and height that it is resized to.
function shownPart(width, height, wide, high, how) {
  if (how.resize === "crop") {
    const times = Math.max(high / height, wide / width) / how.crop_ratio;
    const [h, w] = [high / times, wide / times], [top, left] = [(height - h) / 2, (width - w) / 2];
    const [x, y] = [Math.max(left, 0), Math.max(top, 0)];
    return [[x, y, Math.min(x + w, width), Math.min(y + h, height)], [wide, high]];
  }
  if (how.resize === "pad") {
    const times = Math.min(high / height, wide / width);
    const side = (n, most) => Math.min(Math.max(even(n * times), 1), most);
    return [[0, 0, width, height], [side(width, wide), side(height, high)]];
  }
  return [[0, 0, width, height], [wide, high]];
}

// Weights of the inputs of each output of one axis: [first, [weight, ...]].
function weights(length, low, high, size) {
  const scale = (high - low) / size, wide = Math.max(scale, 1), found = [];
  for (let i = 0; i < size; i++) {
    const centre = low + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - wide + 0.5), 0);
    const end = Math.min(Math.trunc(centre + wide + 0.5), length), each = [];
    for (let x = first; x < end; x++) each.push(Math.max(1 - Math.abs((x - centre + 0.5) * (1 / wide)), 0));
    const sum = each.reduce((a, b) => a + b, 0);
    found.push([first, each.map((w) => Math.trunc(0.5 + (sum ? w / sum : w) * 2 ** BITS))]);
  }
  return found;
}

function along(plane, axis, low, high, size) { // axis 0 for columns
  const { width, height, values } = plane, length = axis ? height : width;
  if (length === size && low === 0 && high === size) return plane;
  const [wide, tall] = axis ? [width, size] : [size, height], out = new Uint8Array(wide * tall);
  const step = axis ? width : 1;
  weights(length, low, high, size).forEach(([first, each], i) => {
    for (let k = 0; k < (axis ? wide : tall); k++) {
      let sum = 2 ** (BITS - 1), at = axis ? first * width + k : k * width + first;
      for (const weight of each) { sum += values[at] * weight; at += step; }
      out[axis ? i * wide + k : k * wide + i] = Math.min(Math.floor(sum / 2 ** BITS), 255);
    }
  });
  return { width: wide, height: tall, values: out };
}

// Means over blocks; those at the end may be smaller.
function reduced(plane, across, down, [left, top, right, bottom]) {
  const wide = Math.ceil((right - left) / across), tall = Math.ceil((bottom - top) / down);
  const out = new Uint8Array(wide * tall);
  for (let y = 0; y < tall; y++) {
    for (let x = 0; x < wide; x++) {
      const [x0, y0] = [left + x * across, top + y * down];
      const [x1, y1] = [Math.min(x0 + across, right), Math.min(y0 + down, bottom)], count = (x1 - x0) * (y1 - y0);
      let sum = count >> 1;
      for (let v = y0; v < y1; v++) for (let u = x0; u < x1; u++) sum += plane.values[v * plane.width + u];
      out[y * wide + x] = Math.floor((sum * Math.floor(Math.fround(2 ** 24 / count))) / 2 ** 24);
    }
  }
  return { width: wide, height: tall, values: out };
}

function resized(plane, box, [wide, high]) {
  const [across, down] = [[0, wide], [1, high]].map(([i, n]) => Math.trunc((box[i + 2] - box[i]) / n / GAP) || 1);
  if (across > 1 || down > 1) {
    const [x, y] = [((box[2] - box[0]) / wide) * 0.5, ((box[3] - box[1]) / high) * 0.5];
    const safe = [
      Math.max(0, Math.trunc(box[0] - x)), Math.max(0, Math.trunc(box[1] - y)),
      Math.min(plane.width, Math.ceil(box[2] + x)), Math.min(plane.height, Math.ceil(box[3] + y)),
    ];
    plane = reduced(plane, across, down, safe);
    box = box.map((v, i) => (v - safe[i % 2]) / (i % 2 ? down : across));
  }
  const [left, top, right, bottom] = box.map(Math.fround);
  return along(along(plane, 0, left, right, wide), 1, top, bottom, high);
}

// Returns the row of a picture ({ width, height, data } with 4 bytes a pixel), uint8, channels last.
function rowOf(picture, [high, wide, channels], how) {
  const row = new Uint8Array(high * wide * channels);
  const [box, size] = shownPart(picture.width, picture.height, wide, high, how);
  const [left, top] = [(wide - size[0]) >> 1, (high - size[1]) >> 1]; // black beside it
  planesOf(picture, channels).forEach((plane, c) => {
    const { values } = resized(plane, box, size);
    for (let y = 0; y < size[1]; y++) {
      for (let x = 0; x < size[0]; x++) row[((top + y) * wide + left + x) * channels + c] = values[y * size[0] + x];
    }
  });
  return row;
}
