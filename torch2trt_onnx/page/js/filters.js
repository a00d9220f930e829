// Which nodes the table shows, and in which order.
const VERDICTS = ["honoured", "fused", "folded", "overridden", "unverifiable", "differs"];

const filters = {
  words: [],
  precisions: new Set(),
  verdicts: new Set(),
  module: root,
  sort: { key: "at", down: false },

  start() {
    by("search").addEventListener("input", () => {
      this.words = by("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      grid.refresh();
    });
    this.draw();
  },

  found() {
    const { words, precisions, verdicts, module, sort } = this;
    const rows = nodes.filter((node) =>
      (!precisions.size || precisions.has(node.runsIn)) && (!verdicts.size || verdicts.has(node.proof)) &&
      isIn(node, module) && words.every((word) => node.search.includes(word)));
    const sign = sort.down ? -1 : 1;
    if (sort.key !== "at") rows.sort((a, b) => sign * order(a[sort.key], b[sort.key]) || a.at - b.at);
    else if (sort.down) rows.reverse();
    return rows;
  },

  draw() {
    const group = (title, key, set, values) => values.length < 2 ? "" : element("div", { class: "group", role: "group", "aria-label": title },
      values.map((value) => {
        const count = nodes.filter((node) => node[key] === value).length;
        const flip = () => (set.has(value) ? set.delete(value) : set.add(value), this.draw(), grid.refresh());
        return element("button", { type: "button", class: "filter", "aria-pressed": String(set.has(value)), "data-filter": value || "none", onclick: flip },
          element("span", { class: "dot", [key === "proof" ? "data-verdict" : "data-precision"]: value || "none" }), value || (key === "proof" ? "no verdict" : "no float"), element("span", { class: "count" }, whole.format(count)));
      }));
    const present = (key, all) => all.filter((value) => nodes.some((node) => node[key] === value));
    const precisions = [...new Set(nodes.map((node) => node.runsIn))].sort();
    const focused = document.activeElement?.dataset?.filter;
    by("filters").replaceChildren(...[
      group("Precision", "runsIn", this.precisions, precisions),
      group("Verdict", "proof", this.verdicts, present("proof", VERDICTS)),
      this.module === root ? "" : element("button", { type: "button", class: "filter", "aria-pressed": "true", onclick: () => only(root) }, `in ${this.module.path} ✕`),
    ].filter(Boolean));
    if (focused) by("filters").querySelector(`[data-filter="${focused}"]`)?.focus();
  },
};

function order(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

// The table of the nodes of a module, or of a cell of the matrix, and of nothing else.
function only(module, precision = null, verdict = null) {
  Object.assign(filters, { module, precisions: new Set(precision === null ? [] : [precision]), verdicts: new Set(verdict === null ? [] : [verdict]), words: [] });
  by("search").value = "";
  filters.draw();
  grid.refresh();
  by("nodes").scrollIntoView();
  by("grid").focus({ preventScroll: true });
}
