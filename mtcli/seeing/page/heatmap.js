// A matrix of weights as coloured cells: rows look at columns. Arrow keys move from cell to cell.
import { isolated, measure, rtl, s, shortened } from "./base.js";

const LONGEST = 24;

// `point(row, column)` hears where the reader is, `point(null, null)` that they left.
export const heatmap = ({ rows, columns, weights, marked, label }, point) => {
  const mirrored = rtl(columns.map((column) => column.text).join(" "));
  const names = [rows, columns].map((items) => items.map((item) => shortened(item.text, LONGEST)));
  const [rowWidth, columnWidth] = names.map((texts) => Math.max(...texts.map((text) => measure(text))));
  const cell = Math.max(rows.length, columns.length) > 40 ? 18 : 28;
  const [side, slope] = [rowWidth + 14, columnWidth * 0.71 + 16];
  const [width, height] = [side + columns.length * cell + slope, slope + rows.length * cell + 2];
  const place = (x) => (mirrored ? width - x : x);
  const left = (column) => (mirrored ? width - side - (column + 1) * cell : side + column * cell);
  const rowLabels = names[0].map((text, row) =>
    s("text", { x: place(side - 8), y: slope + (row + 0.5) * cell, dy: "0.35em", "text-anchor": mirrored ? "start" : "end" }, isolated(text)));
  const columnLabels = names[1].map((text, column) =>
    s("text", {
      transform: `translate(${left(column) + cell / 2 + (mirrored ? 3 : -3)},${slope - 7}) rotate(${mirrored ? 45 : -45})`,
      dy: "0.35em", "text-anchor": mirrored ? "end" : "start",
    }, isolated(text)));
  const cells = weights.map((line, row) => line.map((weight, column) =>
    s("rect", {
      class: marked(row, column) ? "cell marked" : "cell", "--w": weight, "data-at": `${row},${column}`,
      x: left(column) + 1, y: slope + row * cell + 1, width: cell - 2, height: cell - 2, rx: 3,
    })));
  const cursor = s("rect", { class: "cursor", width: cell, height: cell, rx: 4 });
  const dots = cells.flatMap((line, row) => line.map((_, column) => marked(row, column) &&
    s("circle", { class: "dot", cx: left(column) + cell / 2, cy: slope + (row + 0.5) * cell, r: 2.5 })));
  let at = null;

  const show = (row, column) => {
    rowLabels.forEach((node, index) => node.classList.toggle("on", index === row));
    columnLabels.forEach((node, index) => node.classList.toggle("on", index === column));
    cursor.classList.toggle("on", row !== null && column !== null);
    cursor.setAttribute("x", left(column ?? 0));
    cursor.setAttribute("y", slope + (row ?? 0) * cell);
  };
  const move = (row, column) => {
    at = [Math.max(0, Math.min(rows.length - 1, row)), Math.max(0, Math.min(columns.length - 1, column))];
    point(...at);
  };
  const node = s("svg", {
    class: "heatmap", width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application",
    "aria-roledescription": "heatmap", "aria-label": `${label}. Arrow keys move from cell to cell; the table below has all numbers.`,
    onpointermove: (event) => event.target.dataset.at && move(...event.target.dataset.at.split(",").map(Number)),
    onpointerleave: () => point(null, null),
    onfocus: () => move(...(at ?? [0, 0])),
    onblur: () => point(null, null),
    onkeydown: (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, mirrored ? 1 : -1], ArrowRight: [0, mirrored ? -1 : 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(at[0] + step[0], at[1] + step[1]);
      cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
    },
  }, rowLabels, columnLabels, cells, dots, cursor);
  return { node, show };
};
