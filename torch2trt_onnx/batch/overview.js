"use strict";
// The table of jobs: sorted by a click on a head, filtered by status and by words. Without this it is a table all the same.
const by = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en-US");
const rows = [...document.querySelectorAll(".jobs tbody tr")];
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
const chosen = new Set();
const NUMBERS = new Set(["at", "reduced", "error", "engine", "seconds", "peak"]);
let sort = { key: "at", down: false };

function shown() {
  const words = by("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const fits = (!chosen.size || chosen.has(row.dataset.status)) && words.every((word) => texts.get(row).includes(word));
    row.hidden = !fits;
    count += fits;
  }
  const all = `${whole.format(rows.length)} job${rows.length === 1 ? "" : "s"}`;
  by("found").textContent = count === rows.length ? all : `${whole.format(count)} of ${all}`;
  by("none").hidden = count > 0;
}

// What a job has not stands last, whichever way the others go.
function order(one, other) {
  const [a, b] = [one.dataset[sort.key], other.dataset[sort.key]];
  if (a === "" || b === "") return (a === "") - (b === "") || one.dataset.at - other.dataset.at;
  const found = NUMBERS.has(sort.key) ? a - b : a.localeCompare(b, "en", { numeric: true });
  return (sort.down ? -found : found) || one.dataset.at - other.dataset.at;
}

// The first click shows what one looks for first: the largest number, or the first name; the third one the order of the manifest.
function turn(key) {
  const first = NUMBERS.has(key);
  if (sort.key !== key) sort = { key, down: first };
  else if (sort.down === first) sort = { key, down: !first };
  else sort = { key: "at", down: false };
  for (const head of document.querySelectorAll(".jobs th")) {
    if (head.dataset.key === sort.key) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  document.querySelector(".jobs tbody").append(...rows.sort(order));
}

if (rows.length) {
  for (const head of document.querySelectorAll(".jobs th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => turn(head.dataset.key));
    head.append(button);
  }
  for (const button of document.querySelectorAll(".filter")) {
    button.addEventListener("click", () => {
      const { status } = button.dataset;
      if (!chosen.delete(status)) chosen.add(status);
      button.setAttribute("aria-pressed", String(chosen.has(status)));
      shown();
    });
  }
  by("search").addEventListener("input", shown);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || document.activeElement === by("search")) return;
    event.preventDefault();
    by("search").focus();
  });
  document.querySelector(".controls").hidden = false;
  shown(); // a browser that goes back keeps what stood in the field
}
