// The graph around a node: what is within some steps of it.
const MOST_NEIGHBOURS = 60;

function neighbourhood(middle, hops) {
  const near = new Set([middle]);
  let edge = [middle];
  for (let hop = 0; hop < hops; hop += 1) {
    const next = [];
    for (const node of edge.flatMap((one) => [...makersOf(one), ...readersOf(one)])) {
      if (near.has(node) || near.size >= MOST_NEIGHBOURS) continue;
      near.add(node);
      next.push(node);
    }
    edge = next;
  }
  const around = [...near];
  const outside = around.filter((node) => [...makersOf(node), ...readersOf(node)].some((one) => !near.has(one)));
  return { nodes: around, edges: edges(near), outside: new Set(outside), isCut: near.size >= MOST_NEIGHBOURS };
}

// [from, to, type], by the ids of `graph`: nodes by number, inputs and outputs of the model by name.
function edges(near) {
  const found = [];
  for (const node of near) {
    for (const tensor of new Set(node.inputs)) {
      const maker = makerOf(tensor, node);
      if (near.has(maker)) found.push([`n${maker.at}`, `n${node.at}`, maker.outputs[maker.tensors.indexOf(tensor)]]);
      else if (!maker && bindings.get(tensor)?.mode === "Input") found.push([`b${tensor}`, `n${node.at}`, ""]);
    }
    for (const [at, tensor] of node.tensors.entries()) {
      if (!node.scope && bindings.get(tensor)?.mode === "Output") found.push([`n${node.at}`, `b${tensor}`, node.outputs[at]]);
    }
  }
  return found;
}
