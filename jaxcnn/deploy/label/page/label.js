"use strict";
// The page of `jaxcnn label`: one image at a time, answered by keyboard or by buttons.

const at = (id) => document.getElementById(id);
// the server shows each page other images, and undoes its own labels only; the name survives a reload
let page = Math.random().toString(36).slice(2);
try {
  page = sessionStorage.page ??= page;
} catch {} // the browser blocks site data
let token = decodeURIComponent(location.hash.slice(1)), now = null, busy = false;
if (token) history.replaceState(null, "", location.pathname); // not for the history of the browser

function say(line, bad = false) {
  at("status").textContent = line;
  at("status").className = bad ? "bad" : "";
}

async function ask(path, value) {
  const headers = { Authorization: `Bearer ${token}`, "X-Page": page };
  if (value !== undefined) headers["Content-Type"] = "application/json";
  const body = value === undefined ? undefined : JSON.stringify(value);
  const method = value === undefined ? "GET" : "POST";
  const answer = await fetch(path, { method, body, headers, cache: "no-store", credentials: "omit" });
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (answer.status === 401) {
    at("access").hidden = false;
    at("work").hidden = true;
    at("token").focus();
  }
  throw Object.assign(new Error(found.error), { status: answer.status });
}

async function during(action) {
  if (busy) return; // a key that is pressed twice answers one image
  busy = true;
  try {
    say("");
    await action();
  } catch (error) {
    say(error.message || "the program does not answer; start it again", true);
  }
  busy = false;
}

function best() {
  const shares = Object.entries(now.suggested);
  return shares.length ? shares.reduce((a, b) => (b[1] > a[1] ? b : a))[0] : null;
}

function list() {
  const suggested = now.number === null ? null : best(), rows = at("classes");
  rows.replaceChildren();
  now.classes.forEach((name, i) => {
    const button = document.createElement("button"), key = document.createElement("span");
    const label = document.createElement("span"), share = document.createElement("span");
    button.type = "button";
    key.textContent = i < 9 ? String(i + 1) : "";
    label.textContent = name;
    share.className = "share";
    const value = (now.suggested || {})[name];
    share.textContent = value === undefined ? "" : `${(100 * value).toFixed(1)} %`;
    if (name === suggested) button.className = "suggested";
    button.append(key, label, share);
    button.addEventListener("click", () => answer(name));
    const item = document.createElement("li");
    item.append(button);
    rows.append(item);
  });
}

function tell() {
  const skipped = now.skipped ? `, ${now.skipped} skipped` : "";
  const model = now.by_model ? `, ${now.by_model} with the model's answer` : "";
  const renewed = now.renewed ? `; order renewed ${now.renewed === 1 ? "once" : `${now.renewed} times`}` : "";
  const done = `${now.labelled} of ${now.images} labelled${model}${skipped}`;
  at("progress").textContent = `${done}; written to ${now.output}${renewed}.`;
}

async function show(found) {
  const before = at("image").src;
  now = found;
  at("access").hidden = true;
  at("work").hidden = false;
  at("undo").disabled = !now.can_undo;
  at("skip").disabled = now.number === null;
  at("image").hidden = now.number === null;
  list();
  try {
    at("image").removeAttribute("src");
    if (before) URL.revokeObjectURL(before);
    at("file").textContent = now.number === null ? "" : now.file;
    if (now.number === null) {
      say(now.skipped ? "Only skipped images are left; start the program again for them." : "All images are labelled.");
      return;
    }
    at("image").alt = `Image ${now.file}`;
    at("image").src = URL.createObjectURL(await (await ask(`image/${now.number}`)).blob());
    if (now.by === "model") say(`The model's answer is ${now.before}. It stays in the file unless you give another one.`);
    if (!now.classes.length) at("name").focus();
  } finally {
    tell(); // the answer counts also where the next image cannot be read
  }
}

const send = (path, value) => during(async () => {
  try {
    await show(await (await ask(path, value)).json());
  } catch (error) {
    if (error.status === 409) await show(await (await ask("next")).json()); // this page is out of date
    throw error;
  }
});

function answer(name) {
  if (now && now.number !== null) send("label", { number: now.number, file: now.file, before: now.before, by: now.by, label: name });
}

at("image").addEventListener("load", () => {
  const side = Math.max(at("image").naturalWidth, at("image").naturalHeight);
  at("image").classList.toggle("tiny", side <= 112);
});
at("skip").addEventListener("click", () => answer(null));
at("undo").addEventListener("click", () => send("undo", {}));
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  send("next");
});
at("more").addEventListener("submit", (event) => {
  event.preventDefault();
  during(async () => {
    now.classes = (await (await ask("class", { name: at("name").value })).json()).classes;
    at("name").value = "";
    at("name").blur();
    list();
  });
});
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (event.target.tagName === "BUTTON" && (key === "enter" || key === " ")) return; // it is pressed
  if (key >= "1" && key <= "9" && now && now.classes[Number(key) - 1]) answer(now.classes[Number(key) - 1]);
  else if (key === "s") answer(null);
  else if (key === "u") send("undo", {});
  else if (key === "enter" && now && now.number !== null && best()) answer(best());
  else return;
  event.preventDefault();
});
send("next");
