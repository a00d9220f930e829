// Elements, and numbers as people read them (as words.py has them).
const SVG = "http://www.w3.org/2000/svg";

function build(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const element = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const drawn = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
const by = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en-US");
const counted = (number, noun) => `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;

function amount(number) {
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [scale, unit] = units.find(([least]) => number >= least) ?? [1, ""];
  return `${Number((number / scale).toPrecision(3))} ${unit}`.trim();
}

const size = (bytes) => (bytes >= 1000 ? `${amount(bytes)}B` : `${bytes} B`);

function share(part) {
  if (part === 0 || part === 1) return `${part * 100}%`;
  if (part < 0.001) return "<0.1%";
  return part > 0.999 ? ">99.9%" : `${(part * 100).toFixed(1)}%`;
}

const shape = (dims) => dims.map((d) => (d < 0 ? "?" : d)).join(" × ") || "scalar";

// The head of a long name gives way, so that both ends stay: the model's side and the node itself.
function bothEnds(name) {
  const parts = name.split(/(?<=[/.])/);
  let tail = "";
  while (parts.length > 1 && (tail + parts.at(-1)).length <= 24) tail = parts.pop() + tail;
  const head = parts.join("");
  return element("span", { class: "ends", title: name }, element("span", { class: "start" }, head), element("span", {}, tail));
}

const chip = (precision) => element("span", { class: "chip", "data-precision": precision || "none" }, precision || "no float");
const link = (node, ...children) => element("a", { href: addressOf(node) }, ...(children.length ? children : [node.name]));
const addressOf = (node) => `#node=${encodeURIComponent(node.name)}`;
