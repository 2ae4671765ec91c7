"use strict";
// The page without a server: the network runs in this browser, with onnxruntime-web.

const MOST_PIXELS = 50e6;
const described = JSON.parse(at("described").textContent);
let session = null;

// Returns the bytes of a file that this page holds in base64.
function held(id) {
  const text = atob(at(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function describe() {
  if (session) return described;
  ort.env.wasm.numThreads = 1; // more would need headers of a server
  const inside = at("network"); // otherwise the files lie beside the page
  if (inside) {
    const loader = new Blob([held("loader")], { type: "text/javascript" });
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(loader) };
    ort.env.wasm.wasmBinary = held("runtime").buffer;
  } else if (location.protocol === "file:") {
    throw new Error("A browser opens this page only from a server: run python -m http.server in its folder.");
  }
  const how = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  session = await ort.InferenceSession.create(inside ? held("network") : described.network, how);
  return described;
}

function unready() {}

async function pixels(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error(`${blob.name || "drawing"}: not an image that this browser reads`);
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) throw new Error(`${blob.name}: ${width} x ${height} pixels are too many`);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

function tensorOf(row) {
  const shape = [1, ...described.shape];
  if (described.dtype === "uint8") return new ort.Tensor("uint8", row, shape);
  return new ort.Tensor("float32", Float32Array.from(row, (v) => Math.fround(v) / 255), shape);
}

const rounded = (x) => Number(x.toFixed(6));

function answer(file, outputs) {
  const { classes, task, head } = described;
  if (!outputs.every(Number.isFinite)) throw new Error(`${file}: the outputs are not finite`);
  if (task !== "classification") {
    const values = outputs.map((x) => Number(x.toPrecision(7)) + 0);
    return values.length === 1 ? { file, value: values[0] } : { file, values };
  }
  const squashed = outputs.map((x) => 1 / (1 + Math.exp(-x)));
  const most = Math.max(...outputs), powers = outputs.map((x) => Math.exp(x - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  const found = { softmax: powers.map((x) => x / sum), sigmoid: [1 - squashed[0], squashed[0]], multilabel: squashed };
  const each = found[head], best = each.indexOf(Math.max(...each));
  const probabilities = Object.fromEntries(classes.map((name, i) => [name, rounded(each[i])]));
  const labels = classes.filter((name, i) => each[i] > 0.5);
  if (head === "multilabel") return { file, labels, probabilities };
  return { file, class: classes[best], probability: rounded(each[best]), probabilities };
}

async function predictions(blobs) {
  const found = [];
  for (const blob of blobs) {
    const row = rowOf(await pixels(blob), described.shape, described);
    const outputs = await session.run({ image: tensorOf(row) });
    found.push(answer(blob.name || "drawing.png", [...Object.values(outputs)[0].data]));
  }
  return { run: described.run, step: described.step, predictions: found };
}

begin();
