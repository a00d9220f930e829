// A graph as a drawing that one can move and zoom: dagre finds the places.
const BOX = { width: 148, height: 40 };

function drawGraph(place, middle, hops) {
  const found = neighbourhood(middle, hops);
  const laid = new dagre.graphlib.Graph({ multigraph: true }).setGraph({ rankdir: "TB", nodesep: 18, ranksep: 34, marginx: 12, marginy: 12 });
  for (const node of found.nodes) laid.setNode(`n${node.at}`, { ...BOX, width: isCast(node) ? 118 : BOX.width, height: isCast(node) ? 28 : BOX.height, node });
  found.edges.forEach(([from, to, type], at) => {
    for (const id of [from, to]) if (!laid.hasNode(id)) laid.setNode(id, { width: 118, height: 26, binding: id.slice(1) });
    laid.setEdge(from, to, { type, width: 34, height: 12, labelpos: "c" }, String(at));
  });
  dagre.layout(laid);
  const { width, height } = laid.graph();
  const canvas = drawn("g");
  for (const edge of laid.edges()) canvas.append(arrow(laid.edge(edge)));
  for (const id of laid.nodes()) canvas.append(box(laid.node(id), middle, found.outside));
  const svg = drawn("svg", { class: "graph", role: "group", "aria-label": `${counted(found.nodes.length, "node")} around ${middle.name}`, tabindex: 0 },
    drawn("defs", {}, drawn("marker", { id: "head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, drawn("path", { d: "M0 0 8 4 0 8z" }))), canvas);
  place.replaceChildren(svg);
  const at = laid.node(`n${middle.at}`);
  return { view: viewOf(svg, canvas, { width, height }, at), isCut: found.isCut };
}

function arrow({ points, type, x, y }) {
  const path = points.map(({ x: px, y: py }, at) => `${at ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  return drawn("g", { class: "edge" }, drawn("path", { d: path, "marker-end": "url(#head)" }),
    type && x !== undefined ? drawn("text", { x, y: y + 4, "text-anchor": "middle", "data-precision": type }, type) : "");
}

function box({ x, y, width, height, node, binding }, middle, outside) {
  const place = { transform: `translate(${x - width / 2},${y - height / 2})` };
  if (!node) return drawn("g", { ...place, class: "binding" }, drawn("rect", { width, height, rx: height / 2 }), drawn("text", { x: width / 2, y: height / 2 + 4, "text-anchor": "middle" }, cut(binding, width - 12)), drawn("title", {}, `${bindings.get(binding).mode.toLowerCase()} ${binding}`));
  const kind = `${isCast(node) ? " cast" : ""}${node === middle ? " middle" : ""}`;
  const content = isCast(node)
    ? [drawn("rect", { width, height, rx: height / 2, class: "body" }), drawn("text", { x: width / 2, y: height / 2 + 4, "text-anchor": "middle" }, `Cast ${step(node)}`)]
    : [drawn("rect", { width, height, rx: 5, class: "body" }), drawn("rect", { width: 5, height, rx: 2, class: "tone" }), drawn("text", { x: 14, y: 16, class: "op" }, cut(node.op, width - 60)),
       drawn("text", { x: width - 8, y: 16, "text-anchor": "end", class: "type" }, node.runsIn), drawn("text", { x: 14, y: 31, class: "faint" }, ending(node.name, width - 22))];
  if (outside.has(node)) content.push(drawn("circle", { cx: width, cy: 0, r: 4, class: "more" }));
  return drawn("a", { ...place, href: addressOf(node), class: `box${kind}`, "data-precision": node.runsIn || "none", "aria-current": node === middle ? "true" : null }, ...content, drawn("title", {}, node.name));
}

function ending(name, width) {
  const letters = Math.floor(width / 5.8);
  return name.length <= letters ? name : `…${name.slice(1 - letters)}`;
}

// Dragging moves, Ctrl and the wheel zoom, as do + and -; arrows move.
function viewOf(svg, canvas, { width, height }, middle) {
  const view = { scale: 1, x: 0, y: 0 };
  const apply = () => canvas.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.scale})`);
  const zoom = (factor, x = svg.clientWidth / 2, y = svg.clientHeight / 2) => {
    const scale = Math.max(0.15, Math.min(2.5, view.scale * factor));
    Object.assign(view, { x: x - ((x - view.x) * scale) / view.scale, y: y - ((y - view.y) * scale) / view.scale, scale });
    apply();
  };
  const fit = () => {
    const scale = Math.min(1, svg.clientWidth / width, svg.clientHeight / height);
    Object.assign(view, { scale, x: (svg.clientWidth - width * scale) / 2, y: (svg.clientHeight - height * scale) / 2 });
    apply();
  };
  const start = () => {
    fit();
    if (view.scale < 0.7) Object.assign(view, { scale: 0.8, x: svg.clientWidth / 2 - middle.x * 0.8, y: svg.clientHeight / 2 - middle.y * 0.8 });
    apply();
  };
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 200), event.offsetX, event.offsetY);
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    if (event.target.closest("a")) return;
    svg.setPointerCapture(event.pointerId);
    const [x, y] = [event.clientX - view.x, event.clientY - view.y];
    const move = (next) => (Object.assign(view, { x: next.clientX - x, y: next.clientY - y }), apply());
    svg.addEventListener("pointermove", move);
    svg.addEventListener("lostpointercapture", () => svg.removeEventListener("pointermove", move), { once: true });
  });
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key === "+") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") fit();
    else if (event.key in steps) (view.x += steps[event.key][0]), (view.y += steps[event.key][1]), apply();
    else return;
    event.preventDefault();
  });
  start();
  return { zoom, fit };
}
