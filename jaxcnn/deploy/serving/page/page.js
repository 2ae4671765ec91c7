"use strict";
// The page of a run: draw, choose an image or write a text, and see what the network answers. The script after this one
// says how it is asked, in this browser or over HTTP: describe(), predictions(blobs, text), explanation(blob, text) and
// unready(error).

const at = (id) => document.getElementById(id);
const SHOWN = 10; // classes with bars
let about = null, asked = 0;

function element(tag, text, parent, kind) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  if (parent) parent.append(made);
  return made;
}

function say(line, bad = false) {
  at("status").textContent = line;
  at("status").className = bad ? "bad" : "";
}

async function begin() {
  try {
    about = await describe();
  } catch (error) {
    say(error.message, true);
    at("about").textContent = "";
    unready(error);
    return;
  }
  say("");
  const classes = about.classes.length ? `, ${about.classes.length} classes` : "";
  at("title").textContent = `${about.task[0].toUpperCase()}${about.task.slice(1)}`;
  at("about").textContent = `Run ${about.run}, step ${about.step}${classes}.`;
  at("photo").hidden = about.takes !== "image";
  at("sound").hidden = about.takes !== "audio";
  at("text").hidden = about.takes !== "text";
  at("draw").hidden = !about.draw;
}

function bars(parent, values, colours, percent = true) {
  const list = element("ol", "", parent, "bars");
  // a browser sorts names that are numbers
  const entries = Object.entries(values).map(([name, value]) => ({ name, value, i: about.classes.indexOf(name) }));
  entries.sort((a, b) => b.value - a.value);
  entries.slice(0, SHOWN).forEach(({ name, value, i }, rank) => {
    const item = element("li", "", list, rank ? "" : "best");
    element("span", name, item);
    const filled = element("span", "", element("span", "", item, "track"), "fill");
    filled.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
    if (colours && i) filled.style.background = `rgb(${colours[i].join(",")})`;
    element("span", percent ? `${(value * 100).toFixed(2)} %` : String(value), item, "share");
  });
  if (entries.length > SHOWN) element("p", `and ${entries.length - SHOWN} more`, parent, "small");
}

function boxes(view, found) {
  const [height, width] = found.size, space = "http://www.w3.org/2000/svg";
  const drawn = document.createElementNS(space, "svg");
  drawn.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", `${found.objects.length} objects`);
  for (const thing of found.objects) {
    const [left, top, right, bottom] = thing.box, shape = document.createElementNS(space, "rect");
    for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) {
      shape.setAttribute(name, value);
    }
    const label = document.createElementNS(space, "text");
    label.textContent = `${thing.class} ${thing.score.toFixed(2)}`;
    label.setAttribute("x", left);
    label.setAttribute("y", Math.max(top - 3, 14));
    label.setAttribute("font-size", Math.max(width / 40, 6));
    drawn.append(shape, label);
  }
  view.append(drawn);
}

function picture(parent, blob, found) {
  const view = element("div", "", parent, "view"), image = element("img", "", view);
  image.alt = `Your image ${found.file}`;
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) <= 112) view.classList.add("tiny");
  });
  image.src = URL.createObjectURL(blob);
  if (found.mask) {
    const mask = element("img", "", view, "mask");
    mask.alt = "Mask of the classes";
    mask.src = `data:image/png;base64,${found.mask}`;
  }
  if (found.objects) boxes(view, found);
}

function sound(parent, blob, found) {
  const player = element("audio", "", parent);
  player.controls = true;
  player.src = URL.createObjectURL(blob);
  player.setAttribute("aria-label", `Your sound ${found.file}`);
}

function parts(parent, windows) {
  const list = element("ol", "", parent, "windows");
  for (const one of windows) {
    const share = `${(one.probability * 100).toFixed(2)} %`;
    element("li", `${one.start.toFixed(2)} to ${one.end.toFixed(2)} s: ${one.class}, ${share}`, list);
  }
}

function show(found, blob, text) {
  const card = element("article");
  element("h2", blob ? found.file : text.slice(0, 80), card);
  if (blob) (about.takes === "audio" ? sound : picture)(card, blob, found);
  if (found.class) element("h3", `${found.class}, ${(found.probability * 100).toFixed(2)} %`, card);
  if (found.labels) element("h3", found.labels.length ? found.labels.join(", ") : "no label", card);
  if (found.probabilities) bars(card, found.probabilities);
  if (found.windows) parts(card, found.windows);
  if (found.shares) {
    element("h3", "Shares of the pixels", card);
    bars(card, found.shares, about.colours);
  }
  if (found.objects) {
    const list = element("ul", "", card);
    for (const one of found.objects) element("li", `${one.class}, ${one.score.toFixed(3)}: ${one.box.join(", ")}`, list);
    if (!found.objects.length) element("p", "no object", card);
  }
  if ("value" in found) element("h3", String(found.value), card);
  if (found.values) element("p", found.values.join(", "), card);
  if (about.explains) explainer(card, blob, text);
  return card;
}

function explainer(card, blob, text) {
  const place = element("div", "", card, "explained");
  const button = element("button", "What speaks for it?", place);
  button.type = "button";
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const found = await explanation(blob, text);
      place.replaceChildren();
      element("p", `${found.method}: red speaks for ${found.explained}, blue against it.`, place, "small");
      if (found.picture) {
        const image = element("img", "", place);
        image.alt = `What speaks for ${found.explained}`;
        image.src = `data:image/png;base64,${found.picture}`;
      } else {
        words(element("p", "", place), found.words);
      }
    } catch (error) {
      say(error.message, true);
      button.disabled = false;
    }
  });
}

function words(place, found) {
  const most = Math.max(...found.map(([, x]) => Math.abs(x)), 1e-9);
  for (const [word, change] of found) {
    const shown = element("mark", word, place), rest = Math.round(255 * (1 - 0.7 * Math.abs(change) / most));
    shown.style.background = change >= 0 ? `rgb(255,${rest},${rest})` : `rgb(${rest},${rest},255)`;
    shown.title = String(change);
    place.append(" ");
  }
}

async function predict(blobs, text) {
  const number = ++asked;
  say("Asking the network.");
  try {
    const found = await predictions(blobs, text);
    if (number !== asked) return; // a later question has been asked
    const cards = found.predictions.map((one, i) => show(one, blobs && blobs[i], text));
    at("answers").replaceChildren(...cards);
    const first = found.predictions[0];
    say(first.class ? `The network says ${first.class}.` : "The network has answered.");
  } catch (error) {
    if (number === asked) say(error.message, true);
  }
}

function chosen(given) {
  if (!about || about.takes === "text") return;
  const some = [...given].filter((file) => file.type.startsWith(`${about.takes}/`) || file.name);
  if (some.length) predict(some);
}

function preview() {
  if (strokes.length && about) fill(at("seen"), rendered(about.shape[0]), about.shape[0]);
  else at("seen").getContext("2d").clearRect(0, 0, 280, 280);
}

function send() {
  if (!strokes.length) return say("Draw something first.", true);
  preview();
  at("seen").toBlob((blob) => predict([blob]), "image/png");
}

const clear = drawable(at("pad"), preview, send);
at("clear").addEventListener("click", () => { clear(); say(""); at("answers").replaceChildren(); });
at("send").addEventListener("click", send);
at("file").addEventListener("change", (event) => chosen(event.target.files));
at("sound-file").addEventListener("change", (event) => chosen(event.target.files));
at("read").addEventListener("click", () => predict(null, at("words").value));
at("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predict(null, at("words").value);
});
document.addEventListener("paste", (event) => chosen(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  chosen(event.dataTransfer.files);
});
