"use strict";
// Asks the server that gave this page.

let token = "";

async function ask(path, body, type) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (type) headers["Content-Type"] = type;
  const how = { method: body === undefined ? "GET" : "POST", body, headers, cache: "no-store", credentials: "omit" };
  const answer = await fetch(path, how);
  const found = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (answer.status === 401) at("access").hidden = false;
  if (!answer.ok) throw new Error(found.error || `${answer.status}`);
  return found;
}

async function describe() {
  const found = await ask("about");
  at("access").hidden = true;
  return found;
}

function unready() {
  if (at("access").hidden) setTimeout(begin, 2000); // it is still compiling, or away
  else at("token").focus();
}

function predictions(blobs, text) {
  const form = new FormData();
  if (text !== undefined) form.append("text", text);
  else for (const blob of blobs) form.append("file", blob, blob.name || "drawing.png");
  return ask("predict", form);
}

function explanation(blob, text) {
  if (!blob) return ask("explain", text, "text/plain");
  return ask("explain", blob, blob.type.startsWith("image/") ? blob.type : "application/octet-stream");
}

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  begin();
});
at("more").hidden = false;
begin();
