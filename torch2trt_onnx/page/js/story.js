// The story of a node: what it was, what was planned and why, what was done to it, and what the engine runs.
let selected = null;
let opener = null;
let hops = 2;

function openStory(node) {
  const panel = by("story");
  if (panel.hidden) opener = document.activeElement;
  selected = node;
  tooltip.hide();
  panel.replaceChildren(heading(node), element("div", { class: "content" }, why(node), around(node), tensors(node), engine(node), passes(node)));
  panel.hidden = false;
  panel.scrollTop = 0;
  redrawGraph();
  by("story-title").focus({ preventScroll: true });
  picture.select(node);
  grid.paint();
}

function closeStory() {
  if (by("story").hidden) return;
  by("story").hidden = true;
  selected = null;
  picture.select(null);
  grid.paint();
  if (opener?.isConnected && opener !== document.body) opener.focus({ preventScroll: true });
  if (location.hash.startsWith("#node=")) window.history.replaceState(null, "", location.pathname + location.search);
}

function heading(node) {
  return element("div", { class: "top" },
    element("div", { class: "head" }, element("span", { class: "eyebrow" }, node.op, node.scope ? " in " : "", node.scope ? owner(node.scope) : ""),
      element("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: closeStory }, "✕")),
    element("h2", { id: "story-title", tabindex: "-1", translate: "no" }, node.name),
    element("p", { class: "marks" }, chip(node.runsIn), node.proof ? element("span", { class: "verdict", "data-verdict": node.proof }, node.proof) : "",
      node.origin ? element("span", { class: "muted" }, `origin: ${node.origin}`) : ""));
}

const owner = (name) => (named.has(name) ? link(named.get(name)) : name);

const facts = (rows) => element("dl", { class: "facts" }, rows.filter(([, value]) => value !== "" && value !== null).map(([name, ...value]) => element("div", {}, element("dt", {}, name), element("dd", {}, ...value))));

function why(node) {
  const authored = node.authored && node.authored !== node.precision ? element("span", {}, chip(node.authored), " → ", chip(node.precision)) : node.authored ? chip(node.authored) : "";
  return facts([
    ["why", node.reason],
    ["kept in fp32", node.kept_by && `by the rule “${node.kept_by}”`],
    ["source type", authored],
    ["quantized", node.quantized && element("span", {}, chip(node.quantized), ` in tensors of ${node.precision}`)],
    ["module", node.module],
    ["source line", node.source && element("code", {}, node.source)],
    ["work", node.work ? `${amount(node.work)} multiplications, ${share(node.work / root.sums.work.total)} of all` : ""],
    ["makes", node.bytes ? size(node.bytes) : ""],
    ["inside", node.inside],
  ]);
}

function around() {
  const choice = (count) => element("label", {}, element("input", { type: "radio", name: "hops", value: count, checked: count === hops, onchange: () => ((hops = count), redrawGraph()) }), element("span", {}, count));
  const button = (sign, words, act) => element("button", { type: "button", class: "quiet", "aria-label": words, onclick: act }, sign);
  return element("section", { class: "around", "aria-label": "Neighbourhood" },
    element("div", { class: "head" }, element("h3", {}, "Around it"),
      element("div", { class: "choices", role: "radiogroup", "aria-label": "Steps" }, [1, 2, 3].map(choice)),
      element("div", { class: "zoom" }, button("−", "Zoom out", () => shown.zoom(0.8)), button("+", "Zoom in", () => shown.zoom(1.25)), button("⤢", "Fit", () => shown.fit()))),
    element("div", { id: "graph" }), element("p", { id: "graph-note", class: "note" }));
}

let shown = null;

function redrawGraph() {
  const { view, isCut } = drawGraph(by("graph"), selected, hops);
  shown = view;
  by("graph-note").textContent = isCut ? `Cut at ${MOST_NEIGHBOURS} nodes. A dot marks nodes with more neighbours.` : "Drag to move, Ctrl and wheel to zoom; a dot marks nodes with more neighbours.";
}

function tensors(node) {
  const given = node.inputs.map((tensor) => [tensor, makerOf(tensor, node)]).filter(([tensor]) => tensor);
  return element("section", {}, element("h3", {}, "Reads"), given.length ? element("ul", { class: "tensors typed" }, given.map(([tensor, maker]) => element("li", {}, read(tensor, maker)))) : element("p", { class: "muted" }, "nothing"),
    element("h3", {}, "Makes"), element("ul", { class: "tensors typed" }, node.tensors.map((tensor, at) => (tensor ? element("li", {}, made(node, tensor, at)) : ""))));
}

function read(tensor, maker) {
  const weight = weights.get(tensor);
  if (maker) return typed(maker.outputs[maker.tensors.indexOf(tensor)], isCast(maker) ? cast(maker) : ["from ", maker.op, " ", link(maker)]);
  if (weight) return typed(weight.dtype, ["weight ", element("b", {}, tensor), element("span", { class: "muted" }, ` ${shape(weight.dims)}, ${size(weight.bytes)}${weight.authored && weight.authored !== weight.dtype ? `, was ${weight.authored}` : ""}`)]);
  return typed("", [bindings.has(tensor) ? "input " : "", element("b", {}, tensor)]);
}

function made(node, tensor, at) {
  const next = readersOf(node).filter((one) => one.inputs.includes(tensor));
  const to = next.slice(0, 12).map((one) => element("li", {}, isCast(one) ? cast(one) : element("span", {}, `${one.op} `, link(one))));
  if (next.length > 12) to.push(element("li", { class: "muted" }, `and ${whole.format(next.length - 12)} more`));
  return typed(node.outputs[at], [element("b", {}, tensor), bindings.get(tensor)?.mode === "Output" ? element("span", { class: "muted" }, " an output of the model") : "", to.length ? element("ul", {}, to) : ""]);
}

const typed = (type, content) => [type ? chip(type) : element("span"), element("div", {}, content)];

const cast = (node) => element("span", { class: "cast-line" }, element("b", {}, `Cast ${step(node)} `), link(node), element("span", { class: "muted" }, ` ${node.reason}`));

function engine(node) {
  if (!node.verdict && !node.network.length && !node.layers.length) return "";
  const types = node.network.filter(Boolean);
  const held = node.layers.map((name) => element("li", {}, element("code", {}, name), borders(layers.get(name))));
  return element("section", {}, element("h3", {}, "In the engine"), facts([
    ["verdict", node.verdict && element("span", { class: "verdict", "data-verdict": node.verdict }, node.verdict)],
    ["evidence", node.evidence],
    ["network", types.length ? element("span", {}, types.map(chip)) : ""],
    [node.layers.length === 1 ? "layer" : "layers", held.length ? element("ul", { class: "tensors" }, held) : ""],
  ]));
}

function borders(layer) {
  if (!layer) return "";
  const types = (side) => [...new Set(layer[side].map((tensor) => tensor.dtype))].join(", ") || "nothing";
  const others = layer.nodes.filter((name) => name !== selected.name && named.has(name));
  return element("div", { class: "muted" }, `${layer.type}: reads ${types("inputs")}, writes ${types("outputs")}`, layer.tactic ? element("div", { class: "tactic" }, layer.tactic) : "",
    others.length ? element("details", {}, element("summary", {}, `with ${counted(others.length, "other node")}`), element("ul", {}, others.map((name) => element("li", {}, link(named.get(name)))))) : "");
}

function passes(node) {
  const about = node.inputs.flatMap((tensor) => (weights.has(tensor) ? changesAbout.get(tensor) ?? [] : []));
  const found = [...new Set([...(changesOf.get(node.name) ?? []), ...about])];
  return element("section", {}, element("h3", {}, "What the passes did"), found.length
    ? element("ol", { class: "tensors" }, found.map((change) => element("li", {}, element("b", {}, change.pass), ` ${change.action} `, element("span", { class: "muted" }, change.why))))
    : element("p", { class: "muted" }, "nothing"));
}
