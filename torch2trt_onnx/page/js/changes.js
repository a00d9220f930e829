// What each pass changed; a list is made when it is opened.
const MOST_CHANGES = 40;

function startChanges() {
  const byPass = new Map();
  for (const change of report.changes) listed(byPass, change.pass, change);
  for (const details of document.querySelectorAll("details.pass")) {
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(...byAction(byPass.get(details.dataset.pass)));
    });
  }
}

function byAction(changes) {
  const groups = new Map();
  for (const change of changes) listed(groups, change.action.replace(/'[^']*'/g, "…"), change);
  return [...groups].map(([action, all]) => {
    const list = element("ul", { class: "plain" });
    const title = groups.size > 1 ? element("h4", {}, action, element("span", { class: "count" }, whole.format(all.length))) : "";
    const more = element("button", { type: "button", class: "more", onclick: () => (fill(list, all), more.remove()) }, `show all ${whole.format(all.length)}`);
    fill(list, all.slice(0, MOST_CHANGES));
    return element("div", { class: "action" }, title, list, all.length > MOST_CHANGES ? more : "");
  });
}

function fill(list, changes) {
  let before = "";
  list.replaceChildren(...changes.map(({ node, action, why }) => {
    const again = why === before; // told once for neighbours of one reason
    before = why;
    const what = action.includes("'") ? `${action}; ` : "";
    return element("li", {}, named.has(node) ? link(named.get(node)) : element("span", { class: "gone", title: "no longer in the graph" }, node), element("span", { class: "muted" }, again ? what.slice(0, -2) : `${what}${why}`));
  }));
}
