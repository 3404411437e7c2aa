// The tree of a beam search: what it tried, what it kept, and why each branch ended.
import { checkbox, exact, figure, h, isolated, measure, rtl, s, shortened } from "./base.js";
import { table } from "./table.js";

const WHY = { finished: "finished", width: "pruned: not among the best of its step", stop: "still open when the search stopped" };
const ROW = 24;

export const tree = (trace) => {
  const nodes = trace.tree;
  const finished = nodes.map((node, id) => id).filter((id) => nodes[id].end === "finished");
  const best = new Set();
  for (let id = finished.sort((a, b) => nodes[b].score - nodes[a].score)[0] ?? -1; id >= 0; id = nodes[id].parent) best.add(id);
  const mirrored = rtl(trace.target.text);
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
        wide[nodes[id].step] = Math.max(wide[nodes[id].step] ?? 0, measure(shortened(nodes[id].token, 16)));
        queue.push(...children[id].slice(1).map((child) => [child, row]));
      }
    }
    order.sort((a, b) => nodes[a].step - nodes[b].step || y[a] - y[b]);
    const start = wide.reduce((xs, _, step) => [...xs, xs[step] + (wide[step] ?? 0) + 48], [12]);
    const [width, height] = [start.at(-1), taken.length * ROW + 8];
    const x = (place) => (mirrored ? width - place : place);
    const edges = order.filter((id) => nodes[id].parent >= 0).map((id) => {
      const { parent, step } = nodes[id];
      const from = start[nodes[parent].step] + measure(shortened(nodes[parent].token, 16)) + 14;
      const [turn, to] = [start[step] - 32, start[step] - 7]; // beyond all text of the parent's step
      return s("path", { class: `edge ${nodes[id].end ?? ""} ${best.has(id) ? "best" : ""}`, d: `M${x(from)},${y[parent]}H${x(turn)}C${x((turn + to) / 2)},${y[parent]} ${x((turn + to) / 2)},${y[id]} ${x(to)},${y[id]}` });
    });
    const shapes = {};
    const show = (id) => {
      const { token, log_probability, score, end } = nodes[id];
      const path = [];
      for (let up = id; up >= 0; up = nodes[up].parent) path.unshift(up);
      for (const other of order) shapes[other].classList.toggle("on", path.includes(other));
      const prefix = path.slice(1, -1).map((up) => [h("bdi", {}, nodes[up].token), " "]);
      readout.replaceChildren(...[prefix, h("strong", {}, h("bdi", {}, token)), `  log-probability ${exact(log_probability)}, score ${exact(score)}${end ? `, ${WHY[end]}` : ""}`].flat(2));
    };
    const go = (id) => {
      if (id === undefined || !shapes[id]) return;
      for (const other of order) shapes[other].setAttribute("tabindex", other === id ? 0 : -1);
      shapes[id].focus();
      shapes[id].scrollIntoView({ block: "nearest", inline: "nearest" });
    };
    for (const [index, id] of order.entries()) {
      const { token, step, end } = nodes[id];
      const at = x(start[step]);
      const mark = end === "width" ? s("path", { d: `M${at - 4},${y[id] - 4}l8,8m0,-8l-8,8` }) : s(end === "stop" ? "rect" : "circle", { cx: at, cy: y[id], x: at - 4, y: y[id] - 4, width: 8, height: 8, r: 5 });
      shapes[id] = s("g", {
        class: `node ${end ?? ""} ${best.has(id) ? "best" : ""}`, tabindex: index ? -1 : 0, role: "img",
        "aria-label": `step ${step}: ${token}${end ? `, ${WHY[end]}` : ""}`, onpointerenter: () => show(id), onfocus: () => show(id),
        onkeydown: (event) => {
          const [back, on] = mirrored ? ["ArrowRight", "ArrowLeft"] : ["ArrowLeft", "ArrowRight"];
          const next = { [back]: nodes[id].parent, [on]: children[id][0], ArrowUp: order[index - 1], ArrowDown: order[index + 1] }; // up and down: the others of its step
          if (!(event.key in next)) return;
          event.preventDefault();
          go(next[event.key]);
        },
      }, mark, s("text", { x: x(start[step] + 10), y: y[id], dy: "0.35em", "text-anchor": mirrored ? "end" : "start" }, isolated(shortened(token, 16))));
    }
    const picture = s("svg", { class: "tree", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Tree of the search, ${order.length} nodes` }, edges, order.map((id) => shapes[id]));
    stage.replaceChildren(picture);
    if (mirrored) requestAnimationFrame(() => (stage.scrollLeft = stage.scrollWidth));
  };
  draw(true);
  const ended = (end) => nodes.filter((node) => node.end === end).length;
  const note = `${finished.length} finished (●), ${ended("width")} pruned (×), ${ended("stop")} open when the search stopped (■). The best one is the bold line.`;
  const numbers = () => table(["node", "parent", "step", "token", "log-probability", "score", "why it ended"],
    nodes.map((node, id) => [id, node.parent, node.step, node.token, node.log_probability, node.score, WHY[node.end] ?? "went on"]));
  return figure("The search.", note, [h("div", { class: "controls" }, checkbox("what was pruned", true, draw)), readout, stage], numbers);
};
