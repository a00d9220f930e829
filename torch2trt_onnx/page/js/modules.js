// The tree of modules, each with the sums of what is below it.
const MEASURES = {
  work: { value: (node) => node.work, words: (sum) => `${amount(sum)} multiplications` },
  bytes: { value: (node) => node.bytes, words: (sum) => `${size(sum)} made` },
};

const root = (() => {
  const byModule = nodes.some((node) => node.module);
  const top = branch("", "", null);
  for (const node of nodes) {
    const parts = byModule ? node.module.split(".") : node.name.split("/").slice(0, -1);
    let at = top;
    for (const part of parts.filter(Boolean)) {
      const path = at.path ? `${at.path}${byModule ? "." : "/"}${part}` : part;
      if (!at.inside.has(part)) at.inside.set(part, branch(part, path, at));
      at = at.inside.get(part);
    }
    at.own.push(node);
  }
  summed(top);
  return Object.assign(top, { byModule });
})();

function branch(label, path, parent) {
  return { label, path, parent, inside: new Map(), own: [], sums: {}, count: 0 };
}

function summed(module) {
  const { inside, own, sums } = module;
  for (const child of inside.values()) summed(child);
  // A module that only holds another one is told together with it.
  for (const [part, child] of inside) if (!child.own.length && child.inside.size === 1) inside.set(part, merged(child));
  module.count = own.length + [...inside.values()].reduce((sum, child) => sum + child.count, 0);
  for (const measure in MEASURES) {
    const split = {};
    for (const node of own) split[node.runsIn] = (split[node.runsIn] ?? 0) + MEASURES[measure].value(node);
    for (const child of inside.values()) for (const key in child.sums[measure].split) split[key] = (split[key] ?? 0) + child.sums[measure].split[key];
    sums[measure] = { split, total: Object.values(split).reduce((a, b) => a + b, 0) };
  }
}

function merged(module) {
  const [only] = module.inside.values();
  return Object.assign(only, { label: `${module.label}${only.path[module.path.length]}${only.label}`, parent: module.parent });
}

const isIn = (node, module) => {
  if (module === root) return true;
  const [path, gap] = root.byModule ? [node.module, "."] : [node.name, "/"];
  return path === module.path || path.replace(/^\//, "").startsWith(module.path + gap);
};
