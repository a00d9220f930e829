// The report: tables of rows, and who makes and reads each tensor.
const report = (() => {
  const found = JSON.parse(by("data").textContent);
  const text = (value) => (Array.isArray(value) ? value.map((one) => found.texts[one]) : found.texts[value]);
  const rows = ({ length, text: texts, plain }) =>
    Array.from({ length }, (_, at) => {
      const row = {};
      for (const key in texts) row[key] = text(texts[key][at]);
      for (const key in plain) row[key] = plain[key][at];
      return row;
    });
  const tables = ["nodes", "weights", "layers", "bindings", "changes", "stages"];
  return Object.fromEntries(tables.map((name) => [name, rows(found[name])]));
})();

const { nodes } = report;
const named = new Map();
const makers = new Map();
const readers = new Map();
const listed = (map, key, value) => (map.has(key) ? map.get(key).push(value) : map.set(key, [value]));

nodes.forEach((node, at) => {
  node.at = at;
  node.runsIn = node.quantized || node.precision;
  node.proof = differs(node) ? "differs" : node.verdict;
  node.search = [node.name, node.module, node.op, node.reason, ...node.tensors].join("\n").toLowerCase();
  named.set(node.name, node);
  for (const tensor of node.tensors) if (tensor) listed(makers, tensor, node);
  for (const tensor of new Set(node.inputs)) if (tensor) listed(readers, tensor, node);
});

const weights = new Map(report.weights.map((weight) => [weight.name, weight]));
const layers = new Map(report.layers.map((layer) => [layer.name, layer]));
const bindings = new Map(report.bindings.map((binding) => [binding.name, binding]));
const changesOf = new Map();
const changesAbout = new Map(); // by the names that an action quotes: weights that were stored in another type
for (const change of report.changes) {
  listed(changesOf, change.node, change);
  for (const [, name] of change.action.matchAll(/'([^']+)'/g)) listed(changesAbout, name, change);
}

function differs(node) {
  return node.network.some((got, at) => got && at < node.outputs.length && !["?", got].includes(node.outputs[at]));
}

// Bodies of control flow may use one name twice: the maker in the reader's own body comes first, then those around it.
function makerOf(tensor, reader) {
  const found = makers.get(tensor) ?? [];
  for (let scope = reader.scope; found.length > 1; scope = named.get(scope)?.scope ?? "") {
    const own = found.find((node) => node.scope === scope);
    if (own || !scope) return own ?? found[0];
  }
  return found[0];
}

const readersOf = (node) => {
  const found = node.tensors.flatMap((tensor) => (tensor ? readers.get(tensor) ?? [] : []));
  return [...new Set(found)].filter((reader) => node.tensors.some((t) => reader.inputs.includes(t) && makerOf(t, reader) === node));
};
const makersOf = (node) => [...new Set(node.inputs.map((tensor) => makerOf(tensor, node)).filter(Boolean))];
const isCast = (node) => node.op === "Cast" && node.precision !== "";

// "fp32 → fp16" of a Cast.
function step(node) {
  const given = makerOf(node.inputs[0], node);
  const from = given?.outputs[given.tensors.indexOf(node.inputs[0])] ?? /from (\S+) to/.exec(node.reason)?.[1] ?? "?";
  return `${from} → ${node.outputs[0]}`;
}
