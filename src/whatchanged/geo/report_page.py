"""Template, style and script of the report page.

Placeholders are those of ``string.Template``; what goes in is escaped by ``report.py``.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1d2226; --soft: #5c666e; --paper: #fbfbf9;
  --card: #ffffff; --line: #dfe2e0; --accent: #b4451f; --warn: #fff4d6; --warn-ink: #6b4b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaeb; --soft: #9aa5ad;
  --paper: #14171a; --card: #1c2024; --line: #333a40; --accent: #ff9466;
  --warn: #3a2f14; --warn-ink: #f3d48a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.15rem; font-weight: 600; margin: 0; color: var(--soft);
  overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .25rem; color: var(--soft); overflow-wrap: anywhere; }
h3 { font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft);
  margin: 1.5rem 0 .4rem; }
article, .run { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.5rem; margin: 1.25rem 0; }
.caption { font: 600 1.6rem/1.3 Georgia, "DejaVu Serif", serif; margin: 0 0 .4rem;
  overflow-wrap: anywhere; unicode-bidi: isolate; }
.probability { color: var(--soft); margin: 0 0 1rem; }
.probability strong { color: var(--accent); }
meter { width: 9rem; height: .9rem; vertical-align: -.1rem; }
.warnings { list-style: none; margin: 0 0 1rem; padding: .6rem .9rem; border-radius: 6px;
  background: var(--warn); color: var(--warn-ink); }
.layout { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1.5rem; }
.swipe { display: none; position: relative; margin: 0; overflow: hidden; border-radius: 6px;
  align-self: start; touch-action: pan-y; --cut: 50%; }
.live .swipe { display: block; }
.swipe img { display: block; width: 100%; height: auto; }
.swipe .over { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut)); }
.swipe .bar { position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 4px rgba(0, 0, 0, .7);
  pointer-events: none; }
.swipe .bar::after { content: ""; position: absolute; top: 50%; left: 50%; width: 26px;
  height: 26px; margin: -13px 0 0 -13px; border-radius: 50%; background: #fff;
  box-shadow: 0 0 5px rgba(0, 0, 0, .6); }
.swipe input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0;
  opacity: 0; cursor: ew-resize; }
.swipe:focus-within { outline: 2px solid var(--accent); outline-offset: 2px; }
.tag { position: absolute; top: .6rem; padding: .05rem .5rem; border-radius: 4px;
  background: rgba(0, 0, 0, .55); color: #fff; font-size: .8rem; pointer-events: none; }
.tag.left { left: .6rem; } .tag.right { right: .6rem; }
.pictures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .8rem; }
.live .side { grid-column: 2; }
body:not(.live) .layout { grid-template-columns: 1fr; }
.wide { margin-top: 1.25rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .85rem; padding-top: .2rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; unicode-bidi: isolate; }
th { font-weight: 500; color: var(--soft); width: 35%; }
.values th { width: auto; } .values td { font-variant-numeric: tabular-nums; }
.captions { margin: 0; padding-left: 1.1rem; } .captions small { color: var(--soft); }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2rem; }
@media (max-width: 48rem) { .layout { grid-template-columns: 1fr; }
  .live .side { grid-column: 1; } article { padding: 1rem; } .caption { font-size: 1.3rem; } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; }
  body { font-size: 10pt; } .live .swipe { display: none; }
  .layout { grid-template-columns: 1fr; } .live .side { grid-column: 1; }
  article, .run { border: 0; padding: 0; break-inside: avoid; } }
"""

# The slider shows copies of the two pictures, so that each is embedded once, and its value
# moves the edge of the upper one. Without the script the two dates stay side by side.
SCRIPT = """
document.body.classList.add("live");
for (const swipe of document.querySelectorAll(".swipe")) {
  const range = swipe.querySelector("input");
  const layout = swipe.parentElement;
  for (const name of ["after", "before"]) {
    const copy = layout.querySelector("img." + name).cloneNode();
    copy.classList.toggle("over", name === "after");
    swipe.prepend(copy);
  }
  const cut = () => swipe.style.setProperty("--cut", range.value + "%");
  range.addEventListener("input", cut);
  cut();
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1></header>
<main>
$entries
$run
</main>
<footer>Written by whatchanged. What is said here is a model's reading of two photographs: look at
them before acting on it.</footer>
<script>$script</script>
</body>
</html>
"""

ENTRY = """<article id="pair-$number">
$heading<p class="caption">$caption</p>
$probability$warnings<div class="layout">
<div class="swipe">
<span class="tag left">before</span><span class="tag right">$shown</span>
<span class="bar"></span>
<input type="range" min="0" max="100" step="0.1" value="50" aria-label="before or after">
</div>
<div class="side">
<div class="pictures">
<figure><img class="before" src="$before" alt="before" width="$width" height="$height">
<figcaption>before</figcaption></figure>
<figure><img$slides src="$after" alt="after" width="$width" height="$height">
<figcaption>after</figcaption></figure>
$overlays
</div>
$captions
$rows
$tables
</div>
</div>
$wide</article>"""
