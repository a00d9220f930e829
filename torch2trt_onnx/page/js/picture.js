// The picture and its tree: which module is shown, and what the area means.
const picture = {
  module: root,
  measure: root.sums.work.total ? "work" : "bytes",

  start() {
    for (const input of document.querySelectorAll("input[name=measure]")) {
      input.addEventListener("change", () => this.show(this.module, input.value));
    }
    tree.start();
    this.show(root, this.measure);
    let width = by("treemap").clientWidth;
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width === width) return;
      width = contentRect.width;
      this.draw();
    }).observe(by("treemap"));
  },

  show(module, measure = this.measure) {
    Object.assign(this, { module, measure });
    by("measure-note").textContent =
      measure === "work"
        ? `Area: how often a node multiplies, ${amount(root.sums.work.total)} in all; nodes that multiply nothing are not drawn. Click on a module to zoom, on a tile to read its story.`
        : `Area: bytes that a node makes, ${size(root.sums.bytes.total)} in all. Click on a module to zoom, on a tile to read its story.`;
    this.crumbs();
    this.draw();
    tree.draw(module, measure, (next) => this.show(next));
  },

  draw() {
    tooltip.hide();
    drawTreemap(by("treemap"), this.module, this.measure, (next) => this.show(next));
    this.select(selected);
  },

  crumbs() {
    const path = [];
    for (let at = this.module; at; at = at.parent) path.unshift(at);
    const crumbs = path.map((module) => element("button", { type: "button", "aria-current": module === this.module ? "true" : null, onclick: () => this.show(module) }, module.label || "the model"));
    const all = element("button", { type: "button", class: "aside", onclick: () => only(this.module) }, `list its ${counted(this.module.count, "node")}`);
    by("crumbs").replaceChildren(...crumbs, all);
  },

  select(node) {
    for (const tile of by("treemap").querySelectorAll(".tile.selected")) tile.classList.remove("selected");
    if (node) by("treemap").querySelector(`[data-at="${node.at}"]`)?.classList.add("selected");
  },
};
