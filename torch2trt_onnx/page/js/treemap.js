// The picture: a tile a node, coloured by precision, inside the frames of its modules.
const MOST_TILES = 700;
const MOST_OF_ONE = 250; // nodes of one module; smaller ones are drawn together
const PATTERNS = { fp16: "M-2 2 4-4M0 8 8 0M6 10 10 6", bf16: "M0 4H8", int8: "M4 0V8", fp8: "M0 4H8M4 0V8", int4: "M-2 6 2 10M0 0 8 8M6-2 10 2" };

// What is drawn below a module: large modules are opened before small ones, and those of about one size together, as long as there are
// tiles to spare; of the others a tile a precision.
function tiles(module, measure) {
  const tree = { module, children: ownTiles(module, measure).concat(insideOf(module, measure)) };
  let waiting = tree.children.filter((child) => child.children);
  let count = tree.children.length;
  while (waiting.length) {
    const total = ({ module: { sums } }) => sums[measure].total;
    const largest = Math.max(...waiting.map(total));
    const alike = waiting.filter((child) => total(child) > largest * 0.75);
    waiting = waiting.filter((child) => total(child) <= largest * 0.75);
    for (const child of alike) child.children = ownTiles(child.module, measure).concat(insideOf(child.module, measure));
    const added = alike.reduce((sum, child) => sum + child.children.length - 1, 0);
    if (count + added > MOST_TILES) {
      for (const child of alike) child.children = together(child.module, child.module.sums[measure].split, child.module.count);
      continue;
    }
    count += added;
    waiting.push(...alike.flatMap((child) => child.children.filter((inner) => inner.children)));
  }
  tree.children = tree.children.map(folded);
  return tree;
}

const insideOf = (module, measure) =>
  [...module.inside.values()].filter((child) => child.sums[measure].total).map((child) => ({ module: child, children: [] }));

// A frame around one thing only says no more than a longer name of that thing.
function folded(at) {
  if (!at.children) return at;
  const children = at.children.map(folded);
  const label = at.label ?? at.module.label;
  if (children.length > 1) return { ...at, label, children };
  const [only] = children;
  return { ...only, label: only.label ? `${label}${root.byModule ? "." : "/"}${only.label}` : label };
}

function ownTiles(module, measure) {
  const { value } = MEASURES[measure];
  const own = module.own.filter((node) => value(node)).sort((a, b) => value(b) - value(a));
  const rest = {};
  for (const node of own.slice(MOST_OF_ONE)) rest[node.runsIn] = (rest[node.runsIn] ?? 0) + value(node);
  return [...own.slice(0, MOST_OF_ONE).map((node) => ({ node, precision: node.runsIn, value: value(node) })), ...together(module, rest, own.length - MOST_OF_ONE)];
}

const together = (module, split, count) =>
  Object.entries(split).filter(([, value]) => value).map(([precision, value]) => ({ within: module, precision, value, count }));

function drawTreemap(place, module, measure, zoom) {
  const { width, height } = place.getBoundingClientRect();
  const laid = d3.hierarchy(tiles(module, measure), (d) => d.children).sum((d) => d.value ?? 0).sort((a, b) => b.value - a.value);
  const hasTitle = (d) => d.depth && d.y1 - d.y0 > 36 && d.x1 - d.x0 > 44;
  d3.treemap().size([width, height]).paddingInner(2).paddingOuter((d) => (d.depth ? 2 : 0)).paddingTop((d) => (hasTitle(d) ? 18 : d.depth ? 2 : 0)).round(true)(laid);
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Treemap of ${module.path || "the model"} by ${measure}; the tree beside it has the same` }, patterns());
  for (const d of laid.descendants()) {
    const [w, h] = [d.x1 - d.x0, d.y1 - d.y0];
    if (w < 1 || h < 1 || d === laid) continue;
    svg.append(d.data.module ? frame(d, w, h, hasTitle(d), zoom) : tile(d, w, h, module, measure, zoom));
  }
  if (!laid.value) svg.append(drawn("text", { x: width / 2, y: height / 2, class: "empty", "text-anchor": "middle" }, "nothing here multiplies; see the bytes"));
  place.replaceChildren(svg);
}

function frame(d, w, h, titled, zoom) {
  const { module } = d.data;
  return drawn("g", { class: "frame", transform: `translate(${d.x0},${d.y0})`, "data-module": module.path, onclick: () => zoom(module) },
    drawn("rect", { width: w, height: h, rx: 4 }), titled ? drawn("text", { x: 6, y: 13 }, cut(d.data.label, w - 10)) : "");
}

function tile(d, w, h, shown, measure, zoom) {
  const { node, within, precision, value, count } = d.data;
  const what = node ? node.op : counted(count, "node");
  const label = d.data.label ?? what;
  const key = precision || "none";
  const open = () => (node ? (location.hash = addressOf(node)) : within === shown ? null : zoom(within));
  const about = (event) => tooltip.show(event, element("b", {}, node ? node.name : within.path), element("span", {}, `${what} · ${precision || "no float"} · ${MEASURES[measure].words(value)} (${share(value / root.sums[measure].total)})`));
  return drawn("g", { class: "tile", transform: `translate(${d.x0},${d.y0})`, "data-precision": key, "data-node": node?.name, "data-at": node?.at, onclick: open, onpointermove: about, onpointerleave: tooltip.hide },
    drawn("rect", { width: w, height: h, rx: 2 }),
    PATTERNS[key] ? drawn("rect", { width: w, height: h, rx: 2, class: "pattern", fill: `url(#pattern-${key})` }) : "",
    w > 40 && h > 17 ? drawn("text", { x: 6, y: 14 }, cut(label, w - 10)) : "",
    w > 40 && h > 32 ? drawn("text", { x: 6, y: 27, class: "faint" }, cut(d.data.label && w > 110 ? `${what} · ${precision || "no float"}` : precision || "no float", w - 10)) : "");
}

const patterns = () => drawn("defs", {}, Object.entries(PATTERNS).map(([key, d]) =>
  drawn("pattern", { id: `pattern-${key}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" }, drawn("path", { d, class: "hatch" }))));

function cut(text, width) {
  const letters = Math.floor(width / 6.3);
  return text.length <= letters ? text : letters < 3 ? "" : `${text.slice(0, letters - 1)}…`;
}
