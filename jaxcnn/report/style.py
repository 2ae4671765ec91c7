"""The style sheet of a page: light, dark, narrow, wide and printed; it loads no font, image or other file."""

CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #55585c; --back: #ffffff; --card: #f4f5f7; --edge: #c9ccd1;
  --cell: 0 114 178; --on-cell: #ffffff; --s0: #0072b2; --s1: #c44e00; --s2: #007a5a; --s3: #a8478a; --s4: #1a1a1a;
  --s5: #806000; --link: #005a9c; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #b0b4ba; --back: #16181b;
  --card: #212429; --edge: #474c54; --cell: 86 180 233; --on-cell: #101214; --s0: #56b4e9; --s1: #ff9a52; --s2: #33cfa2;
  --s3: #e59ccb; --s4: #ececec; --s5: #e5c84b; --link: #8cc8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 16px; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 8px 0; }
h2 { font-size: 1.25rem; margin: 40px 0 8px; }
h3 { font-size: 1.05rem; margin: 20px 0 6px; }
p { margin: 8px 0; max-width: 78ch; }
.soft, figcaption, .caption { color: var(--soft); }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; list-style: none; }
:focus-visible { outline: 3px solid var(--s1); outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); gap: 12px;
  margin: 16px 0; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 10px 12px; }
.tile b { display: block; font-size: 1.4rem; overflow-wrap: normal; }
.tile span { display: block; font-size: .85rem; color: var(--soft); }
.verdict { border-left: 6px solid var(--s0); background: var(--card); padding: 8px 14px; border-radius: 4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 20px;
  align-items: start; }
figure { margin: 0; max-width: 560px; min-width: 0; }
figcaption { font-size: .88rem; }
.name { font-weight: 600; margin: 0 0 4px; }
figure > svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, "DejaVu Sans", sans-serif; }
.grid { stroke: var(--edge); stroke-width: .6; }
.axis { fill: none; stroke: var(--soft); }
.guide { stroke: var(--soft); stroke-dasharray: 3 4; }
.line { fill: none; stroke-width: 2; }
.mark .open { fill: none; stroke-width: 1.8; }
.bar { fill-opacity: .75; stroke-width: 1; }
.line.s0 { stroke: var(--s0); }
.line.s1 { stroke: var(--s1); }
.line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); }
.line.s4 { stroke: var(--s4); }
.line.s5 { stroke: var(--s5); }
.mark.s0, .bar.s0 { fill: var(--s0); stroke: var(--s0); }
.mark.s1 { fill: var(--s1); stroke: var(--s1); }
.mark.s2 { fill: var(--s2); stroke: var(--s2); }
.mark.s3 { fill: var(--s3); stroke: var(--s3); }
.mark.s4 { fill: var(--s4); stroke: var(--s4); }
.mark.s5 { fill: var(--s5); stroke: var(--s5); }
.mark { stroke-width: 0; }
.mark:has(.open) { stroke-width: 1.8; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 4px 0; padding: 0;
  font-size: .9rem; }
.sample { width: 30px; height: 12px; margin-right: 6px; vertical-align: middle; }
.scroll { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .92rem; }
.caption { margin: 12px 0 2px; font-size: .88rem; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--edge); text-align: right; overflow-wrap: normal; }
th { font-weight: 600; }
tbody th[scope=row] { position: sticky; left: 0; background: var(--back); }
.bar.few { fill: none; stroke-dasharray: 3 2; }
th[scope=row], td.text, th.text { text-align: left; }
td.text { max-width: 60ch; overflow-wrap: anywhere; }
.matrix td { text-align: center; padding: 4px 6px; min-width: 2.4em; border: solid var(--edge);
  border-width: 0 1px 1px 0; background: rgb(var(--cell) / var(--p)); }
.matrix td.full { color: var(--on-cell); }
.matrix td.none { color: var(--soft); }
.matrix th { padding: 4px 6px; }
.matrix thead th { text-align: center; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 12px; padding: 0;
  list-style: none; }
.pictures img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; background: #808080;
  border: 1px solid var(--edge); display: block; }
.pictures.wide { grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
.pictures.wide img { width: 49%; height: auto; image-rendering: auto; }
.pictures.wide.one img { width: 100%; }
.pictures.signals { grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
.pictures.signals img { width: 100%; }
audio { display: block; width: 100%; height: 36px; }
.pictures li { font-size: .85rem; line-height: 1.35; }
.explained img { max-width: 100%; height: auto; display: block; }
.words { line-height: 1.9; }
mark { color: inherit; padding: 1px 3px; border-radius: 3px; }
mark.for { background: color-mix(in srgb, #e0442e var(--p), transparent); }
mark.against { background: color-mix(in srgb, #3b82d6 var(--p), transparent); }
pre { background: var(--card); border: 1px solid var(--edge); border-radius: 6px; padding: 10px; overflow-x: auto;
  white-space: pre-wrap; font-size: .88rem; }
summary { cursor: pointer; }
footer { margin-top: 48px; border-top: 1px solid var(--edge); }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  nav { display: none; }
  .scroll { overflow: visible; }
  figure, .tile, tr, .pictures li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; }
}
""".strip()
