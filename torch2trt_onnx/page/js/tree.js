// The tree of modules: the picture's twin for the keyboard and for screen readers.
const MOST_LEAVES = 100;

const tree = {
  open: new Set(),
  rows: [],
  active: 0,

  draw(module, measure, zoom) {
    Object.assign(this, { measure, zoom, shown: module });
    for (let at = module.parent; at; at = at.parent) this.open.add(at);
    this.redraw();
  },

  redraw() {
    this.rows = [];
    this.list(root, 1);
    this.active = Math.min(this.active, this.rows.length - 1);
    by("tree").replaceChildren(...this.rows.map((row, at) => this.line(row, at)));
    this.mark(false);
  },

  // As far as there is no choice, the tree is open.
  start() {
    for (let at = root; at; at = at.inside.size === 1 ? [...at.inside.values()][0] : null) this.open.add(at);
    by("tree").addEventListener("keydown", (event) => this.key(event));
  },

  list(module, level) {
    this.rows.push({ module, level });
    if (!this.open.has(module)) return;
    const order = (a, b) => b.sums[this.measure].total - a.sums[this.measure].total;
    for (const child of [...module.inside.values()].sort(order)) this.list(child, level + 1);
    const { value } = MEASURES[this.measure];
    const own = module.own.filter(value).sort((a, b) => value(b) - value(a)).slice(0, MOST_LEAVES);
    for (const node of own) this.rows.push({ node, level: level + 1 });
    const more = module.own.length - own.length;
    if (more) this.rows.push({ more, of: module, level: level + 1 });
  },

  line({ module, node, more, level }, at) {
    const { words, value } = MEASURES[this.measure];
    const sums = module?.sums[this.measure];
    const part = (sums?.total ?? (node ? value(node) : 0)) / (root.sums[this.measure].total || 1);
    const label = module ? module.label || "the model" : node ? node.name.split("/").at(-1) : `${whole.format(more)} more node${more === 1 ? "" : "s"}, in the table`;
    const leaf = !module || !(module.own.length + module.inside.size);
    return element("div", { role: "treeitem", id: `branch-${at}`, class: more ? "branch muted" : "branch", "aria-level": level, "aria-expanded": leaf ? null : String(this.open.has(module)), title: module ? `${module.path}: ${words(sums.total)}, ${counted(module.count, "node")}` : node?.name, style: `--level: ${level}`, onclick: (event) => this.choose(at, event.target.closest(".twisty")) },
      element("span", { class: "twisty", "aria-hidden": "true" }, leaf ? "" : "›"),
      element("span", { class: "label" }, label, node && !label.startsWith(node.op) ? element("span", { class: "count" }, node.op) : ""),
      sums ? strip(sums) : node ? element("span", { class: "dot", "data-precision": node.runsIn || "none" }, element("span", { class: "hidden" }, node.runsIn || "no float")) : "",
      element("span", { class: "part" }, more ? "" : share(part)));
  },

  choose(at, toggle) {
    this.active = at;
    const { module, node, of } = this.rows[at];
    if (toggle) this.toggle(module);
    else if (node) location.hash = addressOf(node);
    else if (of) only(of);
    else {
      this.open.add(module);
      this.zoom(module);
    }
    this.mark(true);
  },

  toggle(module, open = !this.open.has(module)) {
    this.open[open ? "add" : "delete"](module);
    this.redraw();
  },

  mark(scroll) {
    const lines = by("tree").children;
    for (const line of lines) line.classList.remove("active");
    lines[this.active]?.classList.add("active");
    by("tree").setAttribute("aria-activedescendant", `branch-${this.active}`);
    if (scroll) keepInView(by("tree"), lines[this.active]);
    this.rows.forEach((row, at) => lines[at]?.classList.toggle("shown", row.module === this.shown));
  },

  key(event) {
    const { module } = this.rows[this.active];
    const moves = { ArrowDown: 1, ArrowUp: -1, Home: -this.rows.length, End: this.rows.length };
    if (event.key in moves) this.active = Math.max(0, Math.min(this.rows.length - 1, this.active + moves[event.key]));
    else if (event.key === "ArrowRight" && module) this.toggle(module, true);
    else if (event.key === "ArrowLeft" && module && this.open.has(module)) this.toggle(module, false);
    else if (event.key === "ArrowLeft") this.active = this.above();
    else if (event.key === "Enter" || event.key === " ") this.choose(this.active);
    else return;
    event.preventDefault();
    this.mark(true);
  },

  above() {
    const { level } = this.rows[this.active];
    for (let at = this.active; at >= 0; at -= 1) if (this.rows[at].level < level) return at;
    return 0;
  },
};

const strip = ({ split, total }) => element("span", { class: "strip", "aria-hidden": "true" },
  Object.entries(split).filter(([, value]) => value).sort(([, a], [, b]) => b - a).map(([precision, value]) => element("i", { "data-precision": precision || "none", style: `flex-grow: ${value / total}` })));

function keepInView(box, line) {
  if (!line) return;
  if (line.offsetTop < box.scrollTop) box.scrollTop = line.offsetTop;
  else if (line.offsetTop + line.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = line.offsetTop + line.offsetHeight - box.clientHeight;
}
