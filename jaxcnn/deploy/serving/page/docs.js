"use strict";
// Shows openapi.json as headings and tables.

function element(tag, text, parent) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

async function show() {
  const place = document.getElementById("paths");
  const found = await (await fetch("openapi.json", { cache: "no-store" })).json();
  place.replaceChildren();
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      element("h2", `${method.toUpperCase()} ${path}`, place);
      element("p", [about.summary, about.description].filter(Boolean).join(". "), place);
      if (about.requestBody) {
        element("p", `Bodies: ${Object.keys(about.requestBody.content).join(", ")}`, place);
      }
      const table = element("table", "", element("div", "", place));
      table.parentNode.className = "wide";
      for (const [code, answer] of Object.entries(about.responses)) {
        const row = element("tr", "", table);
        element("th", code, row).scope = "row";
        element("td", answer.description, row);
      }
    }
  }
  element("h2", "An answer", place);
  element("pre", JSON.stringify(found.components.schemas, null, 1), place).tabIndex = 0;
}

show();
