// The tree of a beam search: what it tried, what it kept, and why each branch ended.
import { checkbox, exact, figure, forth, h, isolated, measure, roving, rtl, s, shortened } from "./base.js";
import { table } from "./table.js";

const WHY = { finished: "finished", width: "pruned: not among the best of its step", stop: "still open when the search stopped" };
const ROW = 24;
const why = (end) => (end ? `, ${WHY[end]}` : "");

export const tree = (trace) => {
  const nodes = trace.tree;
  const finished = nodes.map((node, id) => id).filter((id) => nodes[id].end === "finished");
  const best = new Set();
  for (let id = finished.sort((a, b) => nodes[b].score - nodes[a].score)[0] ?? -1; id >= 0; id = nodes[id].parent) best.add(id);
  const kind = (id) => `${nodes[id].end ?? ""} ${best.has(id) ? "best" : ""}`;
  const mirrored = rtl(trace.target.text);
  const name = (id) => shortened(nodes[id].token, 16);
  const readout = h("output", { class: "readout", "aria-live": "polite" }, "Point at a node, or move with Tab and arrow keys.");
  const stage = h("div", { class: "scroll" });
  const draw = (pruned) => {
    const children = nodes.map(() => []);
    nodes.forEach((node, id) => node.parent >= 0 && (pruned || node.end !== "width") && children[node.parent].push(id));
    children.forEach((ids) => ids.sort((a, b) => best.has(b) - best.has(a) || nodes[b].log_probability - nodes[a].log_probability));
    const [order, y, wide, taken] = [[], {}, [], []]; // ids, their places, the width of each step, the steps each row has
    const queue = [[nodes.findIndex((node) => node.parent < 0), -1]];
    for (const [head, above] of queue) { // a chain of first children is one row: the first below with room for it
      const chain = [head];
      while (children[chain.at(-1)].length) chain.push(children[chain.at(-1)][0]);
      const [from, to] = [nodes[head].step, nodes[chain.at(-1)].step];
      let row = above + 1;
      while (taken[row]?.some(([a, b]) => a <= to && from <= b)) row += 1;
      (taken[row] ??= []).push([from, to]);
      for (const id of chain) {
        y[id] = row * ROW + ROW / 2 + 4;
        order.push(id);
        wide[nodes[id].step] = Math.max(wide[nodes[id].step] ?? 0, measure(name(id)));
        queue.push(...children[id].slice(1).map((child) => [child, row]));
      }
    }
    order.sort((a, b) => nodes[a].step - nodes[b].step || y[a] - y[b]);
    const start = wide.reduce((xs, _, step) => [...xs, xs[step] + (wide[step] ?? 0) + 48], [12]);
    const [width, height] = [start.at(-1), taken.length * ROW + 8];
    const x = (place) => (mirrored ? width - place : place);
    const edges = order.filter((id) => nodes[id].parent >= 0).map((id) => {
      const { parent, step } = nodes[id];
      const from = start[nodes[parent].step] + measure(name(parent)) + 14;
      const [turn, to] = [start[step] - 32, start[step] - 7]; // beyond all text of the parent's step
      const [middle, above, here] = [x((turn + to) / 2), y[parent], y[id]];
      const d = `M${x(from)},${above}H${x(turn)}C${middle},${above} ${middle},${here} ${x(to)},${here}`;
      return s("path", { class: `edge ${kind(id)}`, d });
    });
    const show = (index) => {
      const { log_probability, score, end } = nodes[order[index]];
      const path = [];
      for (let up = order[index]; up >= 0; up = nodes[up].parent) path.unshift(up);
      order.forEach((id, place) => shapes[place].classList.toggle("on", path.includes(id)));
      const prefix = path.slice(1).flatMap((up) => [h("bdi", {}, nodes[up].token), " "]);
      readout.replaceChildren(...prefix, `log-probability ${exact(log_probability)}, score ${exact(score)}${why(end)}`);
    };
    const shapes = order.map((id) => {
      const { token, step, end } = nodes[id];
      const [at, here] = [x(start[step]), y[id]];
      const mark = end === "width" ? s("path", { d: `M${at - 4},${here - 4}l8,8m0,-8l-8,8` })
        : end === "stop" ? s("rect", { x: at - 4, y: here - 4, width: 8, height: 8 }) : s("circle", { cx: at, cy: here, r: 5 });
      const text = { x: x(start[step] + 10), y: here, dy: "0.35em", "text-anchor": mirrored ? "end" : "start" };
      const attributes = { class: `node ${kind(id)}`, role: "img", "aria-label": `step ${step}: ${token}${why(end)}` };
      return s("g", attributes, mark, s("text", text, isolated(name(id))));
    });
    const move = (key, index) => { // along a branch, or to another one of the same step
      const along = { 1: children[order[index]][0], [-1]: nodes[order[index]].parent }[forth(key, mirrored)];
      return along === undefined ? index + { ArrowUp: -1, ArrowDown: 1 }[key] : order.indexOf(along);
    };
    roving(shapes, move, show, () => {});
    const picture = { class: "tree", width, height, role: "group", "aria-label": `Tree of the search, ${order.length} nodes` };
    stage.replaceChildren(s("svg", picture, edges, shapes));
    if (mirrored) requestAnimationFrame(() => (stage.scrollLeft = stage.scrollWidth));
  };
  draw(true);
  const ended = (end) => nodes.filter((node) => node.end === end).length;
  const note = `${finished.length} finished (●), ${ended("width")} pruned (×), ${ended("stop")} open at the end (■). Bold: the best.`;
  const numbers = () => table(["node", "parent", "step", "token", "log-probability", "score", "why it ended"],
    nodes.map((node, id) => [id, node.parent, node.step, node.token, node.log_probability, node.score, WHY[node.end] ?? "went on"]));
  return figure("The search.", note, [h("div", { class: "controls" }, checkbox("what was pruned", true, draw)), readout, stage], numbers);
};
