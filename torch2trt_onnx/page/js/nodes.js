// The table of nodes: only the rows in sight are elements, so that ten thousand cost no more than forty.
const ROW = 34;
const SPARE = 8; // rows above and below those in sight
const COLUMNS = [
  { key: "name", title: "node", cell: (node) => bothEnds(node.name) },
  { key: "op", title: "operator", cell: (node) => node.op },
  { key: "runsIn", title: "precision", cell: (node) => chip(node.runsIn) },
  { key: "proof", title: "verdict", cell: (node) => element("span", { class: "verdict", "data-verdict": node.proof || "none" }, node.proof) },
  { key: "reason", title: "why", cell: (node) => element("span", { title: node.reason }, node.reason) },
  { key: "work", title: "work", cell: (node) => (node.work ? amount(node.work) : "") },
  { key: "bytes", title: "bytes", cell: (node) => (node.bytes ? size(node.bytes) : "") },
];

const grid = {
  rows: [],
  active: 0,

  start() {
    const box = by("grid");
    this.columns = COLUMNS.filter(({ key }) => key !== "proof" || nodes.some((node) => node.proof));
    box.dataset.columns = this.columns.length;
    this.header = element("div", { class: "row header", role: "row", "aria-rowindex": 1 });
    this.body = element("div", { class: "body", role: "rowgroup" });
    box.append(this.header, this.body);
    box.style.setProperty("--rows", Math.min(nodes.length, 16));
    box.addEventListener("scroll", () => this.paint());
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("click", (event) => {
      const line = event.target.closest("[data-row]");
      if (!line) return;
      this.active = Number(line.dataset.row);
      location.hash = addressOf(this.rows[this.active]);
    });
    new ResizeObserver(() => this.paint()).observe(box);
    this.refresh();
  },

  refresh() {
    this.rows = filters.found();
    this.active = 0;
    by("grid").scrollTop = 0;
    by("grid").setAttribute("aria-rowcount", this.rows.length + 1);
    by("found").textContent = this.rows.length === nodes.length ? counted(nodes.length, "node") : `${whole.format(this.rows.length)} of ${counted(nodes.length, "node")}`;
    this.body.style.height = `${this.rows.length * ROW}px`;
    this.heads();
    this.paint();
  },

  heads() {
    const { sort } = filters;
    const head = ({ key, title }) => element("div", { role: "columnheader", class: `cell-${key}`, "aria-sort": sort.key === key ? (sort.down ? "descending" : "ascending") : "none" },
      element("button", { type: "button", "data-sort": key, onclick: () => this.sortBy(key) }, title));
    const focused = document.activeElement?.dataset?.sort;
    this.header.replaceChildren(...this.columns.map(head));
    if (focused) this.header.querySelector(`[data-sort="${focused}"]`)?.focus();
  },

  // Largest numbers first, then smallest, then the order of the graph again.
  sortBy(key) {
    const { sort } = filters;
    const first = key === "work" || key === "bytes";
    filters.sort = sort.key !== key ? { key, down: first } : sort.down === first ? { key, down: !first } : { key: "at", down: false };
    this.refresh();
  },

  paint() {
    const box = by("grid");
    const from = Math.max(0, Math.floor(box.scrollTop / ROW) - SPARE);
    const to = Math.min(this.rows.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + SPARE);
    const lines = this.rows.slice(from, to).map((node, at) => this.line(node, from + at));
    this.body.replaceChildren(...(lines.length ? lines : [element("p", { class: "none" }, "No node has all of this.")]));
    box.setAttribute("aria-activedescendant", this.rows.length ? `row-${this.active}` : "");
  },

  line(node, at) {
    const state = `${at === this.active ? " active" : ""}${node === selected ? " selected" : ""}`;
    return element("div", { class: `row${state}`, role: "row", id: `row-${at}`, "data-row": at, "data-name": node.name, "aria-rowindex": at + 2, "aria-selected": String(node === selected), style: `top: ${at * ROW}px` },
      this.columns.map(({ key, cell }) => element("div", { role: "gridcell", class: `cell-${key}${key === "name" && node.scope ? " nested" : ""}` }, cell(node))));
  },

  key(event) {
    if (event.target !== by("grid")) return;
    const page = Math.floor(by("grid").clientHeight / ROW) - 2;
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -nodes.length, End: nodes.length };
    if (event.key in moves) this.move(this.active + moves[event.key]);
    else if (event.key === "Enter" && this.rows.length) location.hash = addressOf(this.rows[this.active]);
    else return;
    event.preventDefault();
  },

  move(to) {
    const box = by("grid");
    this.active = Math.max(0, Math.min(this.rows.length - 1, to));
    const [top, room] = [this.active * ROW, box.clientHeight - ROW];
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW > box.scrollTop + room) box.scrollTop = top + ROW - room;
    this.paint();
  },
};
